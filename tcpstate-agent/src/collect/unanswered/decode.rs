//! What a pass says of sockets whose peers do not answer, or do not close.

use std::net::SocketAddr;

use tcpstate_common::TcpState;

/// A socket that waits for its peer: it has sent something again, or a probe, and has no answer yet, or
/// this side has closed and the peer has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Tells the socket from all others that live at the same time.
    pub socket: u64,
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// Its state: SYN_SENT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSING or LAST_ACK.
    pub state: TcpState,
    /// Local port.
    pub local_port: u16,
    /// The peer. One that IPv6 writes an IPv4 address as is that.
    pub remote: SocketAddr,
    /// Since when the peer is silent.
    pub silent: Silence,
    /// Sent or to be sent, and not acknowledged, in bytes.
    pub unacknowledged: u32,
    /// How often something was sent again or asked without an answer.
    pub attempts: u8,
}

/// For how long a peer is silent, as the socket has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Jiffies since the last acknowledgement was received.
    SinceAck(u32),
    /// Milliseconds since the first SYN was sent.
    SinceSyn(u32),
}
