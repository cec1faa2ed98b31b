//! What a pass says of sockets whose peers do not answer.

use std::net::SocketAddr;

use tcpstate_common::TcpState;

/// A socket that has sent something again, or a probe, and has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// Its state: ESTABLISHED, FIN_WAIT1, CLOSING or LAST_ACK.
    pub state: TcpState,
    /// Local port.
    pub local_port: u16,
    /// The peer. One that IPv6 writes an IPv4 address as is that.
    pub remote: SocketAddr,
    /// Jiffies since the last acknowledgement was received.
    pub last_ack_jiffies: u32,
    /// Sent or to be sent, and not acknowledged, in bytes.
    pub unacknowledged: u32,
    /// How often something was sent again or asked without an answer.
    pub attempts: u8,
}
