//! What the kernel side says of a listening socket.

use std::{net::SocketAddr, num::NonZeroU64};

use tcpstate_common::{Family, ListenAddress, ListenerRecord, TcpState};

use super::{DecodeError, address, family};

/// A listening socket and its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Tells the socket from all others that live at the same time.
    pub socket: u64,
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// Its family: a dual-stack socket is [`Family::Ipv6`].
    pub family: Family,
    /// What it listens on.
    pub address: SocketAddr,
    /// Connections that wait to be accepted.
    pub accept_queue: u32,
    /// How many may wait; the kernel lets in one more.
    pub accept_limit: u32,
    /// Half-open connections.
    pub half_open: u32,
    /// Segments and connections that were dropped since it listens; wraps around.
    pub drops: u32,
    /// SYN-ACKs that were sent again since the socket is known.
    pub synack_retransmits: u64,
    /// When it began to listen, nanoseconds of `CLOCK_MONOTONIC`; `None` where that was not seen.
    pub begun_ns: Option<NonZeroU64>,
}

impl ListeningSocket {
    /// What its connections are counted by.
    #[must_use]
    pub fn listen_address(&self) -> ListenAddress {
        let address = match self.address {
            SocketAddr::V4(address) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&address.ip().octets());
                bytes
            }
            SocketAddr::V6(address) => address.ip().octets(),
        };
        ListenAddress {
            namespace: self.namespace,
            port: self.address.port(),
            family: self.family.to_kernel().into(),
            address,
        }
    }
}

impl TryFrom<ListenerRecord> for ListeningSocket {
    type Error = DecodeError;

    /// Refuses what listens no more.
    fn try_from(record: ListenerRecord) -> Result<Self, DecodeError> {
        let ListenerRecord {
            socket,
            synack_retransmits,
            namespace,
            accept_queue,
            accept_limit,
            half_open,
            drops,
            port,
            family: raw_family,
            state,
            begun_ns,
            address: raw_address,
        } = record;
        if TcpState::from_kernel(state) != Some(TcpState::Listen) {
            return Err(DecodeError::State(state));
        }
        let family = family(raw_family)?;
        Ok(Self {
            socket,
            namespace,
            family,
            address: SocketAddr::new(address(family, raw_address), port),
            accept_queue,
            accept_limit,
            half_open,
            drops,
            synack_retransmits,
            begun_ns: NonZeroU64::new(begun_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ListenerRecord {
        ListenerRecord {
            socket: 1,
            namespace: 2,
            accept_queue: 129,
            accept_limit: 128,
            port: 80,
            family: 2,
            state: TcpState::Listen as u8,
            address: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ..ListenerRecord::default()
        }
    }

    #[test]
    fn a_record_becomes_the_socket_it_describes_and_back_its_address() {
        let socket = ListeningSocket::try_from(record()).unwrap();
        assert_eq!(socket.address.to_string(), "127.0.0.1:80");
        assert!(socket.begun_ns.is_none());
        let address = socket.listen_address();
        assert_eq!(address.address, record().address);
        assert_eq!((address.namespace, address.family), (2, 2));
    }

    #[test]
    fn what_listens_no_more_is_refused() {
        for state in (0..=u8::MAX).filter(|state| *state != TcpState::Listen as u8) {
            let other = ListenerRecord { state, ..record() };
            assert!(ListeningSocket::try_from(other).is_err(), "{state}");
        }
        let other = ListenerRecord {
            family: 1,
            ..record()
        };
        assert_eq!(
            ListeningSocket::try_from(other),
            Err(DecodeError::Family(1))
        );
    }
}
