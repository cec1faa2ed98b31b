//! What a pass says of sockets whose peers do not answer.

use std::net::SocketAddr;

use tcpstate_common::{TcpState, UnansweredRecord};

use super::{DecodeError, address, family, state};

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

impl TryFrom<UnansweredRecord> for Unanswered {
    type Error = DecodeError;

    fn try_from(record: UnansweredRecord) -> Result<Self, DecodeError> {
        let UnansweredRecord {
            namespace,
            last_ack_jiffies,
            unacknowledged,
            local_port,
            remote_port,
            family: raw_family,
            state: raw_state,
            retransmits,
            probes,
            remote_address,
        } = record;
        let state = state(raw_state)?;
        if !matches!(
            state,
            TcpState::Established | TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck
        ) {
            return Err(DecodeError::State(raw_state));
        }
        let remote = address(family(raw_family)?, remote_address);
        Ok(Self {
            namespace,
            state,
            local_port,
            remote: SocketAddr::new(remote.to_canonical(), remote_port),
            last_ack_jiffies,
            unacknowledged,
            attempts: retransmits.max(probes),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromBytes as _;

    use super::*;

    fn record() -> UnansweredRecord {
        UnansweredRecord {
            namespace: 7,
            last_ack_jiffies: 250,
            unacknowledged: 100,
            local_port: 40_000,
            remote_port: 443,
            family: 2,
            state: 1,
            retransmits: 4,
            probes: 0,
            remote_address: [10, 0, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9],
        }
    }

    #[test]
    fn a_record_is_decoded() {
        let decoded = Unanswered::try_from(record()).unwrap();
        assert_eq!(decoded.remote.to_string(), "10.0.0.2:443");
        assert_eq!(decoded.state, TcpState::Established);
        assert_eq!(decoded.attempts, 4);
        let asked = UnansweredRecord {
            probes: 9,
            ..record()
        };
        assert_eq!(Unanswered::try_from(asked).unwrap().attempts, 9);
    }

    #[test]
    fn a_state_that_no_such_socket_has_is_refused() {
        for (raw, is_taken) in [
            (1, true),
            (4, true),
            (9, true),
            (11, true),
            (8, false),
            (99, false),
        ] {
            let record = UnansweredRecord {
                state: raw,
                ..record()
            };
            assert_eq!(Unanswered::try_from(record).is_ok(), is_taken, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::array::uniform32(any::<u8>()), more: [u8; 4]) {
            let all: Vec<u8> = bytes.into_iter().chain(more).collect();
            let record = UnansweredRecord::read_from_bytes(&all).unwrap();
            if let Ok(decoded) = Unanswered::try_from(record) {
                prop_assert_eq!(decoded.remote.port(), record.remote_port);
            }
        }
    }
}
