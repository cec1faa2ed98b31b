//! Which samples belong to which socket of the watched process.

use aya_ebpf::{macros::map, maps::HashMap};
use tcpstate_common::{SampleKind, SocketTrace};

use crate::{
    kernel::{Registers, Socket, Thread},
    samples::{self, account, now_ns},
};

/// Keyed by the address of the `struct sock`, for as long as that is open.
#[map]
static WHERE_SOCKETS: HashMap<u64, SocketTrace> = HashMap::with_max_entries(SocketTrace::MOST, 0);

/// Of reads that took data, each socket's first is copied, and then one a second.
const READ_INTERVAL_NS: u64 = 1_000_000_000;

/// Notes an event of a socket of the watched process.
#[inline(always)]
pub(crate) fn note(socket: Socket, kind: SampleKind, thread: Thread, registers: Registers) {
    account(|account| account.seen[kind as usize & 3] += 1);
    if matches!(kind, SampleKind::Open | SampleKind::Accept) {
        // Whatever was known of this address was another socket.
        let _ = WHERE_SOCKETS.remove(socket.0);
    }
    let Some(trace) = find_or_add(socket) else {
        account(|account| account.untracked += 1);
        return;
    };
    // One of MPTCP may have been accepted before it had them.
    if trace.remote_port == 0 {
        let _ = socket.describe(trace);
    }
    let slot = kind as usize & 3;
    trace.seen[slot] = trace.seen[slot].wrapping_add(1);
    let now = now_ns();
    if matches!(kind, SampleKind::Read)
        && trace.copied_ns != 0
        && now.wrapping_sub(trace.copied_ns) < READ_INTERVAL_NS
    {
        trace.reads_since_copy = trace.reads_since_copy.wrapping_add(1);
        return;
    }
    let is_first = trace.seen[SampleKind::Read as usize]
        .wrapping_add(trace.seen[SampleKind::ReadEnd as usize])
        == 1;
    let sample = samples::take(thread, registers, kind);
    // The copy takes a while. Where another thread has closed the socket meanwhile, its element may
    // have been given to another one.
    let Some(trace) = find(socket) else { return };
    if sample == 0 {
        trace.reads_since_copy = trace.reads_since_copy.wrapping_add(1);
        return;
    }
    trace.samples[slot] = sample;
    if matches!(kind, SampleKind::Read | SampleKind::ReadEnd) {
        trace.copied_ns = now;
        trace.reads_since_copy = 0;
        if is_first {
            trace.first_read = sample;
        }
    }
}

/// A socket has come into CLOSE_WAIT.
#[inline(always)]
pub(crate) fn enter_close_wait(socket: Socket) {
    if let Some(trace) = find(socket) {
        trace.close_wait_ns = now_ns();
        let _ = socket.describe(trace);
        account(|account| account.entered += 1);
    }
}

/// A socket has left CLOSE_WAIT, by close() or a reset.
#[inline(always)]
pub(crate) fn leave_close_wait(socket: Socket) {
    if let Some(trace) = find(socket)
        && trace.close_wait_ns != 0
    {
        trace.close_wait_ns = 0;
        account(|account| account.left += 1);
    }
}

/// A socket has ended.
#[inline(always)]
pub(crate) fn forget(socket: Socket) {
    let _ = WHERE_SOCKETS.remove(socket.0);
}

#[inline(always)]
fn find(socket: Socket) -> Option<&'static mut SocketTrace> {
    let trace = WHERE_SOCKETS.get_ptr_mut(socket.0)?;
    // SAFETY: the map gave a whole element, and its memory stays the map's for as long as the
    // program runs. The map's elements are made beforehand: one that is removed meanwhile may be
    // given to another socket at once, whose fields this program then writes. That may spoil a count
    // or a name of a sample; each field is a number of its own, of which every value is valid.
    Some(unsafe { &mut *trace })
}

#[inline(always)]
fn find_or_add(socket: Socket) -> Option<&'static mut SocketTrace> {
    if let Some(trace) = find(socket) {
        return Some(trace);
    }
    let mut trace = SocketTrace::default();
    // Its peer may have closed before it was accepted, or before the watch began.
    if socket.is_in_close_wait() {
        trace.close_wait_ns = now_ns();
        account(|account| account.entered += 1);
    }
    let _ = socket.describe(&mut trace);
    // BPF_NOEXIST: where two threads read one socket, the first one's stays.
    let _ = WHERE_SOCKETS.insert(socket.0, trace, 1);
    find(socket)
}
