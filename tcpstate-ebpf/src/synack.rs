//! `tp_btf/tcp_retransmit_synack`: SYN-ACKs that are sent again, by listening socket.

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_NOEXIST, macros::btf_tracepoint, macros::map, maps::LruHashMap,
    programs::BtfTracePointContext,
};
use tcpstate_common::MAX_SYNACK_LISTENERS;

use crate::kernel::Sock;

/// By the address of the listening socket: only those at which there were some. Where it is full, the
/// ones at which there were none for longest make room.
#[map]
static SYNACKS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_SYNACK_LISTENERS, 0);

/// `tcp_retransmit_synack(const struct sock *sk, const struct request_sock *req)`, see
/// [`include/trace/events/tcp.h`](https://github.com/torvalds/linux/blob/v6.12/include/trace/events/tcp.h).
#[btf_tracepoint(function = "tcp_retransmit_synack")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn tcp_synack(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's first argument is a `const struct sock *` that is never null.
    let listener = unsafe { Sock::new(ctx.arg::<*const u8>(0)) };
    let socket = listener.identity();
    if SYNACKS.get_ptr(socket).is_none() {
        // Where another CPU was first, it is there all the same.
        let _ = SYNACKS.insert(socket, 0, u64::from(BPF_NOEXIST));
    }
    if let Some(count) = SYNACKS.get_ptr_mut(socket) {
        // SAFETY: the map gave a valid element, which begins at a multiple of 8. Other CPUs may add
        // to it meanwhile, for which the instruction is made. The target has no atomic types.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64) };
    }
    0
}

/// A socket listens no more.
#[inline(always)]
pub(crate) fn forget(socket: u64) {
    // It need not be there.
    let _ = SYNACKS.remove(socket);
}
