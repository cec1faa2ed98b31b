//! Listeners, sockets in CLOSE_WAIT, and who holds them.

use std::net::SocketAddr;

use crate::host::process::ProcessId;

/// One socket of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// One that listens.
    Listener(Listener),
    /// One in CLOSE_WAIT.
    CloseWait(CloseWaitSocket),
    /// The first subflow of an MPTCP connection that the peer has closed. It is in a state of its own.
    Mptcp(MptcpSocket),
    /// One in any other state, by what tells it from all others that live at the same time.
    Other(u64),
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Tells the socket from all others that live at the same time.
    pub socket: u64,
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// The port it listens on.
    pub port: u16,
}

/// An MPTCP connection that the peer has closed, by its first subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MptcpSocket {
    /// Tells the subflow from all other sockets that live at the same time.
    pub socket: u64,
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// Local port.
    pub local_port: u16,
    /// The peer.
    pub remote: SocketAddr,
    /// Jiffies since the last acknowledgement was received.
    pub last_ack_jiffies: u32,
}

/// A socket whose peer has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseWaitSocket {
    /// Tells the socket from all others that live at the same time.
    pub socket: u64,
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// `CLOCK_MONOTONIC` nanoseconds at which it came into CLOSE_WAIT, where that was seen.
    pub since_ns: Option<u64>,
    /// Jiffies since the last acknowledgement was received.
    pub last_ack_jiffies: u32,
    /// Jiffies since the last data came, where that was looked at.
    pub last_data_jiffies: Option<u32>,
    /// Jiffies since data was sent last, where that was looked at.
    pub last_sent_jiffies: Option<u32>,
    /// Received and not read by the process, in bytes; an unread FIN counts 1.
    pub unread: u32,
    /// Written by the process and not acknowledged by the peer, in bytes.
    pub unsent: u32,
    /// A process has accepted it, or made it.
    pub is_accepted: bool,
    /// Local port.
    pub local_port: u16,
    /// The peer.
    pub remote: SocketAddr,
    /// The address of the cgroup that it was made in, or its listener; 0 where that is not known.
    pub cgroup: u64,
}

/// A descriptor that a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process.
    pub process: ProcessId,
    /// What the descriptor is.
    pub socket: Socket,
    /// For an established connection: the inode number of its network namespace, and its local port.
    pub established: Option<(u32, u16)>,
    /// For any [`Socket::Other`]: the inode number of its network namespace, and
    /// the peer.
    pub destined: Option<(u32, SocketAddr)>,
    /// Other descriptors may be the same socket.
    pub is_shared: bool,
    /// For a listener: sockets in CLOSE_WAIT that wait to be accepted.
    pub unaccepted: u32,
    /// For a listener: others that wait to be accepted, whose peers have not closed.
    pub living: u32,
    /// The number that the process has for the socket; not known of listeners.
    pub descriptor: Option<u32>,
    /// For a listener: there may be more of them.
    pub is_cut: bool,
}

#[cfg(test)]
impl Owner {
    /// A descriptor of which no more is known, and that is the only one of its socket.
    pub(crate) const fn of(process: ProcessId, socket: Socket) -> Self {
        Self {
            process,
            socket,
            established: None,
            destined: None,
            is_shared: false,
            unaccepted: 0,
            living: 0,
            descriptor: None,
            is_cut: false,
        }
    }
}
