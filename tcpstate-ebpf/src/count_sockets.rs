//! `iter/tcp`: counts the sockets of one network namespace, inside the kernel.
//!
//! The kernel calls the program once for each socket of the namespace of the thread that opened
//! the iterator, and a last time with none. The agent zeroes the counts before a pass and reads
//! them after it; only one pass runs at a time.

use aya_ebpf::{helpers::generated::bpf_skc_to_tcp_timewait_sock, macros::map, maps::Array};
use tcpstate_common::{SocketCounts, TcpState};

use crate::{
    clock, destinations,
    kernel::{Sock, TimewaitSock},
    ports::Port,
    services,
};

#[map]
static SOCKET_COUNTS: Array<SocketCounts> = Array::with_max_entries(1, 0);

/// Where `struct bpf_iter__tcp` has the socket: its members are `meta`, `sk_common` and `uid`, each
/// in 8 bytes ([`net/ipv4/tcp_ipv4.c`]).
///
/// [`net/ipv4/tcp_ipv4.c`]: https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_ipv4.c
const SK_COMMON: usize = 1;

// aya-ebpf has no macro for iterators; the section name is what the loader goes by.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn tcp_count(ctx: *const *const u8) -> i32 {
    // SAFETY: `ctx` is what the kernel calls an iter/tcp program with.
    match unsafe { sk_common(ctx) } {
        Some(sk_common) => count(sk_common),
        None => clock::sample(),
    }
    0
}

/// The socket of this call; none at the last one.
///
/// # Safety
///
/// `ctx` must be the context that the kernel called an `iter/tcp` program with.
#[inline(always)]
pub(crate) unsafe fn sk_common(ctx: *const *const u8) -> Option<*const u8> {
    // SAFETY: by the function's own condition the context has this member. One load only: to the
    // verifier a second one would be another pointer that may be null.
    let sk_common = unsafe { ctx.wrapping_add(SK_COMMON).read_volatile() };
    (!sk_common.is_null()).then_some(sk_common)
}

/// Counts a socket, given as [`sk_common`] gave it.
#[inline(always)]
pub(crate) fn count(sk_common: *const u8) {
    let Some(counts) = SOCKET_COUNTS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map gave a valid element, and no other pass writes it, see the module's text.
    let counts = unsafe { &mut *counts };
    // SAFETY: the context's pointer is a `struct sock_common *`, checked for null by the caller.
    let sock = unsafe { Sock::new(sk_common) };
    let (Some(family), Some(state)) = (sock.family(), TcpState::from_kernel(sock.raw_state()))
    else {
        counts.unknown += 1;
        return;
    };
    let mini = matches!(state, TcpState::TimeWait)
        .then(|| minisocket(sk_common))
        .flatten();
    let mut state = state;
    if mini.is_some_and(TimewaitSock::is_in_fin_wait2) {
        counts.fin_wait2_mini[family.slot()] += 1;
        state = TcpState::FinWait2;
    } else {
        counts.by_state[family.slot()][state.slot()] += 1;
    }
    let Some(mut port) = Port::look(sock.local_port(), counts.pass) else {
        return;
    };
    match state {
        TcpState::Listen => {
            services::note_listener(sock, family, &mut port, counts.pass);
            destinations::note_listener(&mut port, counts);
        }
        TcpState::NewSynRecv => services::count_half_open(sock, family, &port, counts),
        _ if port.is_served() => services::count(sock, family, state, &port, counts.pass),
        _ => destinations::count(sock, family, state, mini, &mut port, counts),
    }
}

/// The same as what the verifier lets read a minisocket's own fields of.
#[inline(always)]
fn minisocket(sk_common: *const u8) -> Option<TimewaitSock> {
    // SAFETY: the helper takes a `struct sock_common *` and gives null where it is not a
    // timewait minisocket.
    let tw = unsafe { bpf_skc_to_tcp_timewait_sock(sk_common.cast_mut().cast()) };
    if tw.is_null() {
        return None;
    }
    // SAFETY: the helper gave a `struct tcp_timewait_sock *`, checked for null.
    Some(unsafe { TimewaitSock::new(tw.cast()) })
}
