//! How connections end.

use tcpstate_common::{CloseCounters, CloseReason, SocketEnd, TcpState};

use crate::kernel::Sock;

/// Counts the end of a socket that goes from `old` to CLOSE; nothing for a listener.
#[inline(always)]
pub(crate) fn count(
    counters: &mut CloseCounters,
    sock: Sock,
    socket: u64,
    old: TcpState,
    error: i32,
    (has_fin_come, is_cut_off): (bool, bool),
) -> Option<CloseReason> {
    let reason = CloseReason::of(SocketEnd {
        old,
        error,
        has_port: !matches!(old, TcpState::SynSent) || sock.has_port(),
        is_opener: matches!(old, TcpState::SynRecv) && sock.is_simultaneous_open(),
        is_cut_off,
    })?;
    let is_orphaned = matches!(reason, CloseReason::LocalFin) && !has_fin_come;
    counters.end(socket, reason, is_orphaned);
    Some(reason)
}
