//! How long handshakes took, as the kernel has measured it: the first round trip that a socket
//! knows when it becomes established.

use tcpstate_common::Handshakes;

use crate::kernel::TcpSock;

/// Takes note of a connection that this side has opened; the round trip that the kernel has
/// measured, microseconds, or 0.
#[inline(always)]
pub(crate) fn connected(handshakes: &mut Handshakes, tcp: TcpSock) -> u32 {
    let microseconds = tcp.round_trip_us();
    handshakes.client.observe(microseconds, tcp.retransmits());
    microseconds
}

/// Takes note of a connection that this side has accepted.
#[inline(always)]
pub(crate) fn accepted(handshakes: &mut Handshakes, tcp: TcpSock) {
    let microseconds = tcp.round_trip_us();
    // After a SYN cookie the kernel knows the time from the peer's timestamps alone, in whole
    // milliseconds. Of what it measures itself, one in a thousand looks like that.
    let is_from_cookie = microseconds.is_multiple_of(1000);
    // The kernel counts the segment before it establishes the socket (`tcp_child_process()`).
    // One with data came when the client had something to say, and that is no round trip:
    // TCP_DEFER_ACCEPT, a full accept queue, a third ACK that was lost or put off. The
    // listener's setting is not in the clone by now; since Linux 6.15 (a3a128f611a9) not even
    // when it is made.
    let measured = if is_from_cookie || tcp.has_data_come() {
        0
    } else {
        microseconds
    };
    handshakes.server.observe(measured, tcp.retransmits());
}
