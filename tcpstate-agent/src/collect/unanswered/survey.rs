//! Connections whose peers do not answer, by state and peer.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tcpstate_common::TcpState;

use super::Unanswered;
use crate::collect::close_wait::TickRate;

/// A peer that has been silent for that long, and whose acknowledgement is waited for, does not
/// answer. The kernel asks again after 0.2, 0.6, 1.4, 3 and 6 seconds, unless the way is long.
pub const SILENT: Duration = Duration::from_secs(5);
/// So often something must have been sent again: that takes six seconds, whenever the last
/// acknowledgement was. On a connection that was idle before, that says nothing.
pub const ATTEMPTS: u8 = 5;
/// Groups that are told apart; the sockets beyond are one group.
const MAX_GROUPS: usize = 4096;

/// What tells one group from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnansweredKey {
    /// Inode number of the network namespace; 0 for many.
    pub namespace: u32,
    /// The state.
    pub state: TcpState,
    /// The peer; `None` for many.
    pub peer: Option<IpAddr>,
}

/// Sockets in one state that one peer does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnansweredTally {
    /// How many.
    pub sockets: u64,
    /// For how long the peer has acknowledged nothing on the one where it is longest.
    pub silent: Duration,
    /// Bytes that are not acknowledged.
    pub unacknowledged: u64,
    /// The remote port, if all have the same; else 0.
    pub remote_port: u16,
    /// The local port, if all have the same; else 0.
    pub local_port: u16,
}

/// Adds them up as they come.
#[derive(Debug)]
pub struct UnansweredSurvey {
    tick_rate: TickRate,
    groups: BTreeMap<UnansweredKey, UnansweredTally>,
}

impl UnansweredSurvey {
    /// Nothing yet.
    #[must_use]
    pub const fn new(tick_rate: TickRate) -> Self {
        Self {
            tick_rate,
            groups: BTreeMap::new(),
        }
    }

    /// Takes note of a socket, if its peer does not answer.
    pub fn add(&mut self, socket: &Unanswered) {
        let silent = self.tick_rate.duration(socket.last_ack_jiffies);
        if silent < SILENT || socket.attempts < ATTEMPTS {
            return;
        }
        let mut key = UnansweredKey {
            namespace: socket.namespace,
            state: socket.state,
            peer: Some(socket.remote.ip()),
        };
        if !self.groups.contains_key(&key) && self.groups.len() >= MAX_GROUPS {
            key = UnansweredKey {
                namespace: 0,
                peer: None,
                ..key
            };
        }
        let tally = self.groups.entry(key).or_insert(UnansweredTally {
            remote_port: socket.remote.port(),
            local_port: socket.local_port,
            ..UnansweredTally::default()
        });
        tally.sockets += 1;
        tally.silent = tally.silent.max(silent);
        tally.unacknowledged += u64::from(socket.unacknowledged);
        if tally.remote_port != socket.remote.port() {
            tally.remote_port = 0;
        }
        if tally.local_port != socket.local_port {
            tally.local_port = 0;
        }
    }

    /// Forgets what was found in a namespace.
    pub fn forget(&mut self, namespace: u32) {
        self.groups.retain(|key, _| key.namespace != namespace);
    }

    /// What was found.
    #[must_use]
    pub fn groups(self) -> BTreeMap<UnansweredKey, UnansweredTally> {
        self.groups
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_common::ClockSample;

    use super::*;

    fn survey() -> UnansweredSurvey {
        // 1000 seconds after the start, at 250 jiffies a second.
        let sample = ClockSample {
            monotonic_ns: 1_000_000_000_000,
            jiffies: (1_u64 << 32) + 700 * 250,
        };
        UnansweredSurvey::new(TickRate::of(sample).unwrap())
    }

    fn socket(peer: u32, remote_port: u16, seconds: u32, attempts: u8) -> Unanswered {
        Unanswered {
            namespace: 1,
            state: TcpState::LastAck,
            local_port: 80,
            remote: (std::net::Ipv4Addr::from(peer), remote_port).into(),
            last_ack_jiffies: seconds * 250,
            unacknowledged: 10,
            attempts,
        }
    }

    #[test]
    fn a_peer_does_not_answer_when_it_is_silent_and_was_asked_again_and_again() {
        for (seconds, attempts, is_silent) in [
            (5, 5, true),
            (4, 5, false),
            (500, 4, false),
            (500, 15, true),
        ] {
            let mut survey = survey();
            survey.add(&socket(1, 1, seconds, attempts));
            assert_eq!(
                !survey.groups().is_empty(),
                is_silent,
                "{seconds} {attempts}"
            );
        }
    }

    #[test]
    fn the_sockets_of_a_peer_are_added_up() {
        let mut survey = survey();
        survey.add(&socket(1, 1000, 10, 5));
        survey.add(&socket(1, 1001, 20, 5));
        survey.add(&socket(2, 1000, 30, 5));
        survey.add(&Unanswered {
            state: TcpState::Established,
            ..socket(1, 1000, 10, 5)
        });
        let groups = survey.groups();
        assert_eq!(groups.len(), 3);
        let key = UnansweredKey {
            namespace: 1,
            state: TcpState::LastAck,
            peer: Some(std::net::Ipv4Addr::from(1).into()),
        };
        let expected = UnansweredTally {
            sockets: 2,
            silent: Duration::from_secs(20),
            unacknowledged: 20,
            remote_port: 0,
            local_port: 80,
        };
        assert_eq!(groups[&key], expected);
    }

    #[test]
    fn more_peers_than_can_be_told_apart_are_one_group_and_none_is_lost() {
        let mut survey = survey();
        for peer in 0..10_000 {
            survey.add(&socket(peer, 1, 10, 5));
        }
        let groups = survey.groups();
        assert_eq!(groups.len(), MAX_GROUPS + 1);
        assert_eq!(
            groups.values().map(|tally| tally.sockets).sum::<u64>(),
            10_000
        );
    }
}
