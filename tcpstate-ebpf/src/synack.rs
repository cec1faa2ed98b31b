//! `tp_btf/tcp_retransmit_synack`: SYN-ACKs that are sent again, by listening socket.

use core::arch::asm;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{event_ring, kernel::Sock, listeners};

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
    listeners::know(socket);
    match listeners::counters(socket) {
        Some(counters) => {
            // SAFETY: the map gave a valid element.
            let count = unsafe { &raw mut (*counters).synack_retransmits };
            // SAFETY: as above; it begins at a multiple of 8. Other CPUs may add to it meanwhile,
            // for which the instruction is made. The target has no atomic types.
            unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64) };
        }
        None => event_ring::count_unlisted(),
    }
    0
}
