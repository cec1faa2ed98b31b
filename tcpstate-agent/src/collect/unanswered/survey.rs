//! Connections whose peers do not answer or do not close, by state and peer.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};
use tcpstate_common::TcpState;

use super::{Silence, Unanswered};
use crate::{
    collect::close_wait::TickRate,
    host::process::{Process, ProcessId},
};

/// A peer that has been silent for that long, and whose acknowledgement is waited for, does not
/// answer. The kernel asks again after 0.2, 0.6, 1.4, 3 and 6 seconds, unless the way is long.
pub const SILENT: Duration = Duration::from_secs(5);
/// So often something must have been sent again: that takes six seconds, whenever the last
/// acknowledgement was. On a connection that was idle before, that says nothing.
pub const ATTEMPTS: u8 = 5;
/// A SYN is sent again after a second, and on newer kernels four times so.
const SYNS: u8 = 3;
/// A peer that says nothing for so long after this side has closed does not close.
const OPEN: Duration = Duration::from_mins(1);
/// Sockets of a group whose holders are looked for.
const SAMPLED: usize = 64;
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// The processes that hold them, as far as looked for, those with most first. What is closed has
    /// none.
    pub holders: Vec<Arc<Process>>,
    sample: Vec<u64>,
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
        let silent = match socket.silent {
            Silence::SinceAck(jiffies) => self.tick_rate.duration(jiffies),
            Silence::SinceSyn(millis) => Duration::from_millis(millis.into()),
        };
        let (long, often) = match socket.state {
            TcpState::SynSent => (SILENT, SYNS),
            TcpState::FinWait2 => (OPEN, 0),
            _ => (SILENT, ATTEMPTS),
        };
        if silent < long || socket.attempts < often {
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
        if tally.sample.len() < SAMPLED {
            tally.sample.push(socket.socket);
        }
        tally.silent = tally.silent.max(silent);
        tally.unacknowledged += u64::from(socket.unacknowledged);
        if tally.remote_port != socket.remote.port() {
            tally.remote_port = 0;
        }
        if tally.local_port != socket.local_port {
            tally.local_port = 0;
        }
    }

    /// The sockets whose holders are to be looked for.
    #[must_use]
    pub fn sampled(&self) -> FxHashSet<u64> {
        let samples = self.groups.values().flat_map(|tally| &tally.sample);
        samples.copied().collect()
    }

    /// Takes note of who holds those.
    pub fn name(
        &mut self,
        held: &FxHashMap<u64, ProcessId>,
        processes: &FxHashMap<ProcessId, Arc<Process>>,
    ) {
        for tally in self.groups.values_mut() {
            let mut counts = BTreeMap::<ProcessId, usize>::new();
            for holder in tally.sample.iter().filter_map(|socket| held.get(socket)) {
                *counts.entry(*holder).or_default() += 1;
            }
            let mut holders: Vec<_> = counts.into_iter().collect();
            holders.sort_by_key(|&(id, count)| (Reverse(count), id));
            tally.holders = holders
                .into_iter()
                .filter_map(|(id, _)| processes.get(&id).cloned())
                .collect();
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
    use crate::{
        collect::owners::CgroupIdentity,
        host::process::{Descriptors, RunState},
    };

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
            socket: (u64::from(peer) << 16) + u64::from(remote_port),
            namespace: 1,
            state: TcpState::LastAck,
            local_port: 80,
            remote: (std::net::Ipv4Addr::from(peer), remote_port).into(),
            silent: Silence::SinceAck(seconds * 250),
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
    fn syns_that_nobody_answers_and_peers_that_do_not_close_are_found() {
        let syn = |millis, attempts| Unanswered {
            state: TcpState::SynSent,
            silent: Silence::SinceSyn(millis),
            ..socket(1, 1, 0, attempts)
        };
        let half_closed = |seconds| Unanswered {
            state: TcpState::FinWait2,
            ..socket(1, 1, seconds, 0)
        };
        for (socket, is_found) in [
            (syn(7_000, 3), true),
            (syn(4_000, 3), false),
            (syn(7_000, 2), false),
            (half_closed(60), true),
            (half_closed(59), false),
        ] {
            let mut survey = survey();
            survey.add(&socket);
            assert_eq!(!survey.groups().is_empty(), is_found, "{socket:?}");
        }
    }

    #[test]
    fn a_group_has_the_processes_that_hold_most_of_it_first() {
        let mut survey = survey();
        for port in 1..=3 {
            survey.add(&socket(1, port, 10, 5));
        }
        let process = |tgid| {
            let id = ProcessId {
                tgid,
                start_boottime_ns: 1,
            };
            let process = Process {
                id,
                name: String::new(),
                cgroup: CgroupIdentity::default(),
                descriptors: Descriptors::default(),
                run_state: RunState::default(),
            };
            (id, Arc::new(process))
        };
        let (one, other) = (process(7), process(9));
        let held = [(1, one.0), (2, other.0), (3, other.0)];
        let held = held.map(|(port, id)| ((1_u64 << 16) + port, id));
        assert_eq!(survey.sampled().len(), 3);
        survey.name(
            &held.into_iter().collect(),
            &[one, other].into_iter().collect(),
        );
        let groups = survey.groups();
        let holders = groups.values().flat_map(|tally| &tally.holders);
        let numbers: Vec<u32> = holders.map(|process| process.id.tgid).collect();
        assert_eq!(numbers, [9, 7]);
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
            holders: Vec::new(),
            sample: vec![(1 << 16) + 1000, (1 << 16) + 1001],
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
