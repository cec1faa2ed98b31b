//! Listeners, sockets in CLOSE_WAIT, and who holds them.

use std::net::SocketAddr;

use tcpstate_common::{SocketFlags, SocketRecord, TcpState};

use super::{DecodeError, address, family, state};
use crate::host::process::ProcessId;

/// One socket of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// One that listens.
    Listener(Listener),
    /// One in CLOSE_WAIT.
    CloseWait(CloseWaitSocket),
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

impl TryFrom<SocketRecord> for Socket {
    type Error = DecodeError;

    fn try_from(record: SocketRecord) -> Result<Self, DecodeError> {
        let SocketRecord {
            socket,
            since_ns,
            last_ack_jiffies,
            namespace,
            unread,
            unsent,
            local_port,
            remote_port,
            family: raw_family,
            state: raw_state,
            flags,
            padding: _,
            remote_address,
        } = record;
        let family = family(raw_family)?;
        match state(raw_state)? {
            TcpState::Listen => Ok(Self::Listener(Listener {
                socket,
                namespace,
                port: local_port,
            })),
            TcpState::CloseWait => Ok(Self::CloseWait(CloseWaitSocket {
                socket,
                namespace,
                since_ns: (since_ns != 0).then_some(since_ns),
                last_ack_jiffies,
                last_data_jiffies: None,
                last_sent_jiffies: None,
                unread,
                unsent,
                is_accepted: flags & SocketFlags::ACCEPTED != 0,
                local_port,
                remote: SocketAddr::new(address(family, remote_address), remote_port),
                cgroup: 0,
            })),
            _ => Ok(Self::Other(socket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromBytes as _;

    use super::*;

    fn record() -> SocketRecord {
        SocketRecord {
            socket: 7,
            since_ns: 8,
            last_ack_jiffies: 9,
            namespace: 4_026_531_833,
            unread: 101,
            unsent: 0,
            local_port: 80,
            remote_port: 40_000,
            family: 2,
            state: 8,
            flags: SocketFlags::ACCEPTED,
            padding: 0,
            remote_address: [10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    #[test]
    fn a_record_becomes_the_socket_it_describes() {
        let Ok(Socket::CloseWait(socket)) = Socket::try_from(record()) else {
            panic!("not in CLOSE_WAIT");
        };
        assert_eq!(socket.remote.to_string(), "10.1.2.3:40000");
        assert_eq!(socket.since_ns, Some(8));
        assert!(socket.is_accepted);
        let listener = SocketRecord {
            state: 10,
            ..record()
        };
        let listener = Socket::try_from(listener).unwrap();
        assert!(matches!(
            listener,
            Socket::Listener(Listener { port: 80, .. })
        ));
    }

    #[test]
    fn a_beginning_that_was_not_seen_is_none() {
        let unseen = SocketRecord {
            since_ns: 0,
            ..record()
        };
        let Ok(Socket::CloseWait(socket)) = Socket::try_from(unseen) else {
            panic!("not in CLOSE_WAIT");
        };
        assert_eq!(socket.since_ns, None);
    }

    #[test]
    fn what_is_no_state_or_no_family_is_refused() {
        for raw in 0..=u8::MAX {
            let of_state = SocketRecord {
                state: raw,
                ..record()
            };
            let known = (1..=12).contains(&raw);
            assert_eq!(Socket::try_from(of_state).is_ok(), known, "state {raw}");
            let of_family = SocketRecord {
                family: raw,
                ..record()
            };
            assert_eq!(Socket::try_from(of_family).is_ok(), raw == 2 || raw == 10);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_socket_or_refused(bytes in prop::array::uniform32(any::<u8>())) {
            let mut all = [0; size_of::<SocketRecord>()];
            for (place, byte) in all.iter_mut().zip(bytes.iter().cycle()) {
                *place = *byte;
            }
            let record = SocketRecord::read_from_bytes(&all).unwrap();
            if let Ok(Socket::Other(socket)) = Socket::try_from(record) {
                prop_assert_eq!(socket, record.socket);
            }
        }
    }
}
