//! One look at the sockets in CLOSE_WAIT.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Cause, Facts, HolderFacts, ReportMptcp, Role, Verdict};
use crate::{
    collect::owners::{ReportCgroup, ReportProcess, Reporter},
    engine::{CloseWait, OwnedGroup},
};

/// Peers that are named in each group.
pub(super) const PEERS: usize = 3;

/// Every group of sockets in CLOSE_WAIT at one moment, the largest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// All sockets in CLOSE_WAIT.
    pub sockets: u64,
    /// They by owner, service and cause.
    pub groups: Vec<ReportGroup>,
    /// MPTCP connections that their peers have closed, which are not among them, the largest group
    /// first.
    #[serde(default)]
    pub mptcp: Vec<ReportMptcp>,
}

/// Sockets in CLOSE_WAIT that one process keeps there for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportGroup {
    /// The process; `None` where no descriptor leads to them.
    pub process: Option<ReportProcess>,
    /// Who ran what made them, where there is no process and that is known.
    pub made_in: Option<ReportCgroup>,
    /// Numbers of other processes that are alike and have a socket each of those counted here.
    #[serde(default)]
    pub alike: Vec<u32>,
    /// Numbers of other processes that have some of them too.
    pub shared_with: Vec<u32>,
    /// Their names, each once.
    #[serde(default)]
    pub shared_names: Vec<String>,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// Which side of the connections.
    pub role: Role,
    /// The service's port, 0 for many together.
    pub port: u16,
    /// Why they stay.
    pub cause: Cause,
    /// How many there are.
    pub sockets: u64,
    /// How many of them are at most a minute old, as far as known.
    pub last_minute: u64,
    /// Age of the oldest, or at least that.
    pub oldest_age_seconds: f64,
    /// The number that the process has for the oldest, as in `/proc/PID/fd`; `None` where it has
    /// none: it has not accepted it.
    pub oldest_descriptor: Option<u32>,
    /// Age of the youngest, at most: it is not exact.
    pub youngest_age_seconds: f64,
    /// Age that half of them exceed, estimated.
    pub median_age_seconds: f64,
    /// Of how many only a lower bound of the age is known.
    pub age_lower_bound_sockets: u64,
    /// Whether the oldest is one of those.
    pub oldest_age_is_lower_bound: bool,
    /// Data that was not read.
    pub unread_bytes: u64,
    /// Data that the process has written and the peers have not acknowledged.
    pub unacknowledged_bytes: u64,
    /// How many come a second, where their ages show that they do so steadily.
    pub arrivals_per_second: Option<f64>,
    /// What tells what is wrong.
    pub facts: Facts,
    /// The processes that may be the one that accepts, where it is not known which of them does.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
    /// The peers with most of them.
    pub peers: Vec<ReportPeer>,
}

/// One of several processes that hold a listening socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The process.
    #[serde(flatten)]
    pub process: ReportProcess,
    /// What is known of it.
    pub facts: HolderFacts,
}

/// A peer and how many of a group's sockets go to it, or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportPeer {
    /// Its address.
    pub address: IpAddr,
    /// At least so many.
    pub sockets: u64,
}

impl Report {
    /// What was found, with what `/proc` says of what the processes run.
    #[must_use]
    pub fn new(found: &CloseWait) -> Self {
        let mut reporter = Reporter::default();
        let mut groups: Vec<_> = found
            .groups
            .iter()
            .map(|group| {
                let process = group.owner.as_ref();
                let process = process.map(|process| reporter.describe(process));
                let candidates = group.candidates.iter();
                let candidates = candidates.map(|(process, facts)| Candidate {
                    process: reporter.describe(process),
                    facts: *facts,
                });
                ReportGroup {
                    candidates: candidates.collect(),
                    ..ReportGroup::new(group, process)
                }
            })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.sockets));
        let mptcp = found.mptcp.iter().map(|(process, service, tally)| {
            ReportMptcp::new(reporter.describe(process), *service, *tally)
        });
        let mut mptcp: Vec<_> = mptcp.collect();
        mptcp.sort_by_key(|group| std::cmp::Reverse(group.connections));
        Self {
            sockets: found.total.sockets,
            groups,
            mptcp,
        }
    }
}

impl ReportGroup {
    fn new(group: &OwnedGroup, process: Option<ReportProcess>) -> Self {
        let tally = &group.tally;
        let oldest = tally.oldest;
        // The third limit is a minute.
        let [_, _, older_than_a_minute, ..] = tally.older_than;
        let peers = tally.peers.top(PEERS).into_iter();
        Self {
            process,
            made_in: group.made_in.as_ref().map(|cgroup| ReportCgroup {
                unit: cgroup.unit.clone(),
                container_id: cgroup.container_id.clone(),
                pod_uid: cgroup.pod_uid.clone(),
            }),
            alike: Vec::new(),
            shared_names: group.co_owner_names.iter().cloned().collect(),
            shared_with: group.co_owners.iter().map(|owner| owner.tgid).collect(),
            namespace: group.service.namespace,
            role: group.service.role,
            port: group.service.port,
            cause: group.cause,
            sockets: tally.sockets,
            last_minute: tally
                .sockets
                .saturating_sub(older_than_a_minute)
                .saturating_sub(tally.lower_bound),
            oldest_age_seconds: oldest.map_or(0.0, |age| age.time.as_secs_f64()),
            oldest_descriptor: group.oldest_descriptor,
            youngest_age_seconds: tally.ages.youngest_at_least().as_secs_f64(),
            // Estimated, but no more than the oldest.
            median_age_seconds: oldest
                .map_or(Duration::ZERO, |age| age.time.min(tally.ages.median()))
                .as_secs_f64(),
            age_lower_bound_sockets: tally.lower_bound,
            oldest_age_is_lower_bound: oldest.is_some_and(|age| !age.is_exact),
            unread_bytes: tally.unread_bytes,
            unacknowledged_bytes: tally.queues.unacknowledged_bytes,
            arrivals_per_second: tally.steady_rate(),
            facts: group.facts.clone(),
            candidates: Vec::new(),
            peers: peers
                .map(|(address, sockets)| ReportPeer { address, sockets })
                .collect(),
        }
    }

    /// Leaves those of the candidates that accept, where any is known to.
    pub(crate) fn narrow(&mut self, mut accepts: impl FnMut(&ReportProcess) -> bool) {
        let all = std::mem::take(&mut self.candidates);
        let (accepters, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|one| accepts(&one.process));
        let mut accepters = accepters.into_iter();
        let Some(Candidate { process, facts }) = accepters.next() else {
            self.candidates = others;
            return;
        };
        let (pids, names): (Vec<u32>, BTreeSet<String>) = accepters
            .map(|other| (other.process.pid, other.process.name))
            .unzip();
        self.process = Some(process);
        self.shared_with = pids;
        self.shared_names = names.into_iter().collect();
        self.facts.holder = Some(facts);
        self.facts.is_one_of = false;
    }

    /// What is wrong, most likely.
    pub(super) fn verdict(&self) -> Verdict {
        let oldest = Duration::try_from_secs_f64(self.oldest_age_seconds).unwrap_or_default();
        // Those of processes that are alike have one each, and one is judged.
        let sockets = if self.alike.is_empty() {
            self.sockets
        } else {
            1
        };
        Verdict::of(self.role, self.cause, sockets, oldest, &self.facts)
    }

    /// Whether `other` is the same group at another time.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let key = |group: &Self| {
            let process = group.process.as_ref();
            (
                process.map(ReportProcess::id),
                group.namespace,
                group.role,
                group.port,
                group.cause,
            )
        };
        key(self) == key(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::compare::tests::{group, process};

    #[test]
    fn of_those_that_may_accept_those_are_left_that_do() {
        let candidates: Vec<_> = [10, 11, 12]
            .map(|pid| Candidate {
                process: process(pid, 5),
                facts: HolderFacts {
                    is_out_of_descriptors: pid == 11,
                    ..HolderFacts::default()
                },
            })
            .into();
        for (accepters, expected, verdict) in [
            (&[][..], (10, vec![11, 12], true), Verdict::BlockedAccept),
            (&[12], (12, vec![], false), Verdict::BlockedAccept),
            (
                &[11, 12],
                (11, vec![12], false),
                Verdict::DescriptorsExhausted,
            ),
        ] {
            let mut waiting = group(10, 80, 5);
            waiting.cause = Cause::Unaccepted;
            waiting.shared_with = vec![11, 12];
            waiting.facts.is_one_of = true;
            waiting.candidates.clone_from(&candidates);
            waiting.narrow(|process| accepters.contains(&process.pid));
            let (pid, others, is_one_of) = expected;
            assert_eq!(waiting.process.as_ref().unwrap().pid, pid);
            assert_eq!(waiting.shared_with, others);
            assert_eq!(waiting.facts.is_one_of, is_one_of);
            assert_eq!(waiting.verdict(), verdict);
        }
    }
}
