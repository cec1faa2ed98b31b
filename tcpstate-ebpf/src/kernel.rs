//! Reads of kernel structs, at the offsets that the agent found in the kernel's BTF.
//!
//! Only this folder follows kernel pointers, in two ways. A direct load ([`load`]) through a
//! pointer whose type the verifier knows needs no helper: the verifier checks the offset against
//! the type, and the kernel turns a fault into a zero. Anything else is copied by a helper that
//! checks the address ([`copy`], [`read`]).

mod sock;
mod task;

use core::{arch::asm, ptr};

use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, bpf_probe_read_kernel_buf},
};
use tcpstate_common::MISSING;

pub(crate) use sock::{Sock, TcpSock};
pub(crate) use task::Caller;

macro_rules! offsets {
    ($($name:ident),+ $(,)?) => {
        $(#[unsafe(no_mangle)]
        static $name: Global<u32> = Global::new(MISSING);)+
    };
}

// The names and meanings are in `tcpstate_common::FIELDS`.
offsets!(
    SK_STATE,
    SK_FAMILY,
    SK_NET,
    SK_DPORT,
    SK_DADDR,
    SK_RCV_SADDR,
    SK_V6_DADDR,
    SK_V6_RCV_SADDR,
    SK_PROTOCOL,
    SK_ERR,
    SK_FLAGS,
    SK_SOCKET,
    INET_SPORT,
    NET_INUM,
    SRTT,
    TOTAL_RETRANSMITS,
    DATA_SEGMENTS_IN,
    MAX_ACK_BACKLOG,
    WRITE_SEQ,
    SND_UNA,
    TASK_TGID,
    TASK_LEADER,
    TASK_COMM,
    TCP_CLOCK,
    LINGER2,
);

/// `IPPROTO_TCP`. MPTCP's own sockets (262) and SCTP's (132) pass the same tracepoint; MPTCP
/// subflows are TCP sockets and are counted as `ss -t` counts them.
const IPPROTO_TCP: u16 = 6;

/// Loads a `T` that lies `offset` bytes into the kernel struct at `base`.
///
/// # Safety
///
/// `base` must be a pointer that the verifier knows by its BTF type.
#[inline(always)]
unsafe fn load<T>(base: *const u8, offset: &Global<u32>) -> T {
    let field = base.wrapping_add(offset.load() as usize).cast::<T>();
    // SAFETY: the verifier refuses the program unless `offset`, a constant to it, names a member
    // of that size in the struct `base` points to. Volatile keeps the load as one instruction of
    // that size, which is what the verifier checks.
    unsafe { ptr::read_volatile(field) }
}

/// Copies bytes that lie `offset` bytes behind `base`. `false` where they cannot be read; then
/// they are zeros.
#[inline(always)]
fn copy(base: *const u8, offset: &Global<u32>, to: &mut [u8]) -> bool {
    let from = base.wrapping_add(offset.load() as usize);
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel_buf(from, to) }.is_ok()
}

/// Copies a `T` that lies `offset` bytes behind `base`, if it can be read.
#[inline(always)]
fn read<T>(base: *const u8, offset: &Global<u32>) -> Option<T> {
    read_at(base.wrapping_add(offset.load() as usize))
}

/// Copies the `T` at `from`, if it can be read.
#[inline(always)]
fn read_at<T>(from: *const u8) -> Option<T> {
    // SAFETY: the helper checks the address and fails instead of faulting. `T` is an integer in
    // every use, for which any bytes will do.
    unsafe { bpf_probe_read_kernel(from.cast::<T>()) }.ok()
}

/// The address of what `pointer` points to, as something to reckon with: the verifier lets no
/// shift near a pointer, and forgets what one is only on a way through memory.
#[inline(always)]
fn as_number(pointer: *const u8) -> u64 {
    let address = pointer as u64;
    // SAFETY: the helper reads eight bytes of this program's own stack.
    unsafe { bpf_probe_read_kernel(&raw const address) }.unwrap_or(0)
}

/// How far `pointer` is from a fixed place, which tells it from all others as well as its address
/// does: to the verifier the difference of two pointers is a number. It costs one instruction,
/// where [`as_number`] costs some 30 ns.
#[inline(always)]
fn distance(pointer: *const u8) -> u64 {
    let mut distance = pointer as u64;
    let origin = &raw const SK_STATE;
    // SAFETY: subtracts one register from another.
    unsafe { asm!("{0} -= {1}", inout(reg) distance, in(reg) origin) };
    distance
}

/// What [`distance`] measures from.
#[inline(always)]
pub(crate) fn origin() -> u64 {
    as_number((&raw const SK_STATE).cast())
}
