//! One record of the event ring.

use std::net::SocketAddr;

use tcpstate_common::{CloseReason, Family, TcpState, TransitionRecord};
use zerocopy::FromBytes;

use super::{DecodeError, address, family, state};

/// One state transition of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Tells the socket from all others that live at the same time.
    pub socket: u64,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// A dual-stack socket that speaks IPv4 is [`Family::Ipv6`] and has mapped addresses.
    pub family: Family,
    /// The state before.
    pub old: TcpState,
    /// The state after.
    pub new: TcpState,
    /// `sk_err`: a positive errno, 0 for none.
    pub error: i32,
    /// How the connection ended, where the new state is CLOSE and it was not a listener. From
    /// CLOSE to CLOSE: what that is corrected to, a moment later.
    pub reason: Option<CloseReason>,
    /// Local address; port 0 where none is bound yet.
    pub local: SocketAddr,
    /// Remote address; all zeros for a listener.
    pub remote: SocketAddr,
    /// The process that called connect() or listen(), where this is such a transition.
    pub caller: Option<Caller>,
}

/// A process as the kernel side names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its number.
    pub process: u32,
    /// comm of its first thread. What follows the first NUL means nothing.
    pub name: [u8; 16],
}

/// The greatest number that the kernel uses for an errno, `MAX_ERRNO`.
const MAX_ERRNO: i32 = 4095;

impl Transition {
    /// Decodes one record as it lies in the ring buffer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record = TransitionRecord::read_from_bytes(bytes)
            .map_err(|_| DecodeError::Length(bytes.len()))?;
        let TransitionRecord {
            time_ns,
            socket,
            namespace,
            error,
            local_port,
            remote_port,
            family,
            old_state,
            new_state,
            reason,
            local_address,
            remote_address,
            process_name,
            process,
            reserved: _,
        } = record;
        let family = self::family(family)?;
        if !(0..=MAX_ERRNO).contains(&error) {
            return Err(DecodeError::Error(error));
        }
        let (old, new) = (state(old_state)?, state(new_state)?);
        let reason = match (old, new) {
            (TcpState::Listen, _) => None,
            (_, TcpState::Close) => {
                let known = CloseReason::from_number(reason);
                Some(known.ok_or(DecodeError::Reason(reason))?)
            }
            _ => None,
        };
        Ok(Self {
            time_ns,
            socket,
            namespace,
            family,
            old,
            new,
            error,
            reason,
            local: SocketAddr::new(address(family, local_address), local_port),
            remote: SocketAddr::new(address(family, remote_address), remote_port),
            caller: (process != 0).then_some(Caller {
                process,
                name: process_name,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    fn record() -> TransitionRecord {
        TransitionRecord {
            time_ns: 1,
            socket: 2,
            namespace: 4_026_531_833,
            error: 104,
            local_port: 80,
            remote_port: 40_000,
            family: 2,
            old_state: 1,
            new_state: 8,
            reason: 0,
            local_address: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            remote_address: [10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            process_name: *b"python3\0garbage!",
            process: 4711,
            reserved: 0,
        }
    }

    #[test]
    fn a_record_becomes_the_transition_it_describes() {
        let transition = Transition::decode(record().as_bytes()).unwrap();
        assert_eq!(transition.old, TcpState::Established);
        assert_eq!(transition.new, TcpState::CloseWait);
        assert_eq!(transition.error, 104);
        assert_eq!(transition.local.to_string(), "127.0.0.1:80");
        assert_eq!(transition.remote.to_string(), "10.1.2.3:40000");
    }

    #[test]
    fn a_mapped_address_stays_ipv6() {
        let mapped = TransitionRecord {
            family: 10,
            local_address: Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(),
            ..record()
        };
        let transition = Transition::decode(mapped.as_bytes()).unwrap();
        assert_eq!(transition.local.to_string(), "[::ffff:127.0.0.1]:80");
        assert_eq!(transition.family, Family::Ipv6);
    }

    #[test]
    fn every_wrong_length_is_refused() {
        let bytes = [0_u8; 200];
        for length in (0..bytes.len()).filter(|&length| length != 88) {
            assert_eq!(
                Transition::decode(&bytes[..length]),
                Err(DecodeError::Length(length))
            );
        }
    }

    #[test]
    fn every_number_that_is_no_state_is_refused() {
        for raw in 0..=u8::MAX {
            let known = (1..=12).contains(&raw);
            for record in [
                TransitionRecord {
                    old_state: raw,
                    ..record()
                },
                TransitionRecord {
                    new_state: raw,
                    ..record()
                },
            ] {
                let decoded = Transition::decode(record.as_bytes());
                assert_eq!(decoded.is_ok(), known, "state {raw}");
                if !known {
                    assert_eq!(decoded, Err(DecodeError::State(raw)));
                }
            }
        }
    }

    #[test]
    fn every_number_that_is_no_family_is_refused() {
        for raw in 0..=u8::MAX {
            let family = TransitionRecord {
                family: raw,
                ..record()
            };
            let decoded = Transition::decode(family.as_bytes());
            assert_eq!(decoded.is_ok(), raw == 2 || raw == 10, "family {raw}");
        }
    }

    #[test]
    fn an_errno_out_of_range_is_refused() {
        for (error, valid) in [(0, true), (4095, true), (-1, false), (4096, false)] {
            let decoded = Transition::decode(TransitionRecord { error, ..record() }.as_bytes());
            assert_eq!(decoded.is_ok(), valid, "errno {error}");
        }
    }

    #[test]
    fn only_the_end_of_a_connection_has_a_reason_and_an_unknown_one_is_refused() {
        for (old_state, new_state, reason, decoded) in [
            (1, 7, 3, Ok(Some(CloseReason::ResetReceived))),
            (7, 7, 4, Ok(Some(CloseReason::ResetSent))),
            (1, 8, 3, Ok(None)),
            (10, 7, 0, Ok(None)),
            (1, 7, 14, Err(DecodeError::Reason(14))),
        ] {
            let record = TransitionRecord {
                old_state,
                new_state,
                reason,
                ..record()
            };
            let found = Transition::decode(record.as_bytes());
            assert_eq!(found.map(|transition| transition.reason), decoded);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..180)) {
            if let Ok(transition) = Transition::decode(&bytes) {
                prop_assert_eq!(bytes.len(), 88);
                prop_assert_eq!(transition.local.is_ipv4(), transition.family == Family::Ipv4);
            }
        }
    }
}
