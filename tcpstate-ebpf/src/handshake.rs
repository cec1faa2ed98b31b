//! How long handshakes took, as the kernel has measured it: the first round trip that a socket
//! knows when it becomes established.

use tcpstate_common::{Handshakes, TcpState};

use crate::kernel::Sock;

/// Takes note of a transition.
#[inline(always)]
pub(crate) fn observe(handshakes: &mut Handshakes, sock: Sock, old: TcpState, new: TcpState) {
    if !matches!(new, TcpState::Established) {
        return;
    }
    let Some(tcp) = sock.tcp() else {
        return;
    };
    let microseconds = tcp.round_trip_us();
    let is_server = matches!(old, TcpState::SynRecv);
    // After a SYN cookie the kernel knows the time from the peer's timestamps alone, in whole
    // milliseconds. Of what it measures itself, one in a thousand looks like that.
    let is_from_cookie = microseconds % 1000 == 0;
    // The kernel counts the segment before it establishes the socket (`tcp_child_process()`). One
    // with data came when the client had something to say, and that is no round trip:
    // TCP_DEFER_ACCEPT, a full accept queue, a third ACK that was lost or put off. The listener's
    // setting is not in the clone by now; since Linux 6.15 (a3a128f611a9) not even when it is made.
    let measured = if is_server && (is_from_cookie || tcp.has_data_come()) {
        0
    } else {
        microseconds
    };
    let of_role = if is_server {
        &mut handshakes.server
    } else {
        &mut handshakes.client
    };
    of_role.observe(measured, tcp.retransmits());
}
