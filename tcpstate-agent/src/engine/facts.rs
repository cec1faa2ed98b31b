//! What is known of each group that tells what is wrong with it: joined from what the sockets show,
//! who listens, and what the looks before have found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{close_wait::OwnedGroup, look::FoundOwners};
use crate::{
    collect::close_wait::{
        Age, Cause, Facts, HolderFacts, Role, SURELY_SEEN, Service, Survey, Verdict,
    },
    host::process::{Process, ProcessId, RunState},
};

/// What is kept from one look to the next, because it takes two to tell.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The oldest of what each process had not accepted, and when that was.
    unaccepted: BTreeMap<(ProcessId, Service), (Age, Instant)>,
    /// Processes that slept where no signal wakes them. For a moment many do.
    uninterruptible: BTreeSet<ProcessId>,
    /// How many sockets each had some time ago.
    counts: BTreeMap<GroupKey, (u64, Instant)>,
}

type GroupKey = (ProcessId, Service, Cause);

/// A count is compared with one that is at most so old.
const LONG_AGO: Duration = Duration::from_mins(10);
/// What serves requests has some in CLOSE_WAIT at any time that are no older than this.
const REQUEST: Duration = Duration::from_mins(1);

/// The oldest of a queue would be that much older if nothing had been accepted, and a queue is
/// accepted from in order.
const TOLERANCE: Duration = Duration::from_millis(20);

impl Memory {
    /// Tells what is wrong with each of the groups that a look has found.
    pub(super) fn judge(
        &mut self,
        groups: &mut [OwnedGroup],
        survey: &Survey,
        owners: &FoundOwners,
        now: Instant,
    ) {
        let before = std::mem::take(self);
        for group in groups.iter_mut() {
            group.facts = before.facts(group, survey, owners, now);
            group.candidates = before.candidates(group, owners);
            group.judge();
            self.note(group, &before, now);
        }
        let leaving: BTreeSet<_> = groups
            .iter()
            .filter(|group| group.verdict == Verdict::UnreadResponse)
            .filter_map(|group| Some((group.owner.as_ref()?.id, group.service)))
            .collect();
        let blocked: BTreeSet<_> = groups
            .iter()
            .filter(|group| group.verdict == Verdict::BlockedAccept && !group.is_one_of)
            .flat_map(|group| {
                let owner = group.owner.iter().map(|owner| owner.id);
                let all = owner.chain(group.co_owners.iter().copied());
                all.map(move |id| (id, group.service))
            })
            .collect();
        for group in groups.iter_mut() {
            if let Some(owner) = &group.owner
                && let Some(holder) = &mut group.facts.holder
            {
                let key = (owner.id, group.service);
                holder.leaves_responses = leaving.contains(&key);
                holder.is_blocked = blocked.contains(&key);
                group.judge();
            }
        }
    }

    fn note(&mut self, group: &OwnedGroup, before: &Self, now: Instant) {
        let Some(process) = &group.owner else {
            return;
        };
        let key = (process.id, group.service, group.cause);
        let count = before.counts.get(&key).copied();
        let count = count.filter(|(_, at)| now.duration_since(*at) < LONG_AGO);
        self.counts
            .insert(key, count.unwrap_or((group.tally.sockets, now)));
        if process.run_state == RunState::Uninterruptible {
            self.uninterruptible.insert(process.id);
        }
        if group.cause == Cause::Unaccepted
            && let Some(oldest) = group.tally.oldest
        {
            let key = (process.id, group.service);
            self.unaccepted.insert(key, (oldest, now));
        }
    }

    fn facts(
        &self,
        group: &OwnedGroup,
        survey: &Survey,
        owners: &FoundOwners,
        now: Instant,
    ) -> Facts {
        let (least, most) = group.tally.queues.unread.unwrap_or_default();
        let queues = &group.tally.queues;
        let holder = group.owner.as_deref();
        Facts {
            is_listened: group.service.role == Role::Server && survey.is_listened(group.service),
            is_growing: self.is_growing(group, now),
            least_unread_bytes: least,
            most_unread_bytes: most,
            ended_with_data: queues.together,
            ended_after_data: queues.apart,
            unacknowledged_sockets: queues.unacknowledged,
            answered_sockets: queues.answered,
            accepts: holder.and_then(|process| self.accepts(process, group, now)),
            waiting_alive: group.waiting_alive,
            is_one_of: group.is_one_of,
            holder: holder.map(|process| self.holder(process, group, owners)),
        }
    }

    /// Who may be the one that accepts.
    fn candidates(
        &self,
        group: &OwnedGroup,
        owners: &FoundOwners,
    ) -> Vec<(Arc<Process>, HolderFacts)> {
        if !group.is_one_of {
            return Vec::new();
        }
        let others = group.co_owners.iter();
        let others = others.filter_map(|id| owners.processes.get(id));
        let all = group.owner.iter().chain(others);
        all.map(|process| (Arc::clone(process), self.holder(process, group, owners)))
            .collect()
    }

    fn holder(&self, process: &Process, group: &OwnedGroup, owners: &FoundOwners) -> HolderFacts {
        let (service, cause) = (group.service, group.cause);
        let listeners = owners.holdings.listeners(service);
        let has_name = |id: &ProcessId| {
            let listener = owners.processes.get(id);
            listener.is_some_and(|listener| listener.name == process.name)
        };
        let run_state = match process.run_state {
            RunState::Uninterruptible if !self.uninterruptible.contains(&process.id) => {
                RunState::Runs
            }
            state => state,
        };
        HolderFacts {
            run_state,
            is_out_of_descriptors: process.descriptors.left() == Some(0),
            listens: listeners.is_some_and(|all| all.contains(&process.id)),
            // Where nobody is known to listen, nobody is known to be a stranger.
            is_kin_of_listener: listeners
                .is_none_or(|all| all.contains(&process.id) || all.iter().any(has_name)),
            leaves_responses: false,
            is_told_once: false,
            is_blocked: false,
            other_sides: owners.holdings.other_sides(process.id, service, cause),
        }
    }

    /// Whether they become more: they come steadily, and do not go. Those of requests come and go.
    fn is_growing(&self, group: &OwnedGroup, now: Instant) -> bool {
        let Some((rate, process)) = group.tally.exact.steady_rate().zip(group.owner.as_ref())
        else {
            return false;
        };
        let before = self.counts.get(&(process.id, group.service, group.cause));
        let should_have_come =
            before.map(|(before, at)| (*before, rate * now.duration_since(*at).as_secs_f64()));
        match should_have_come {
            #[expect(
                clippy::cast_precision_loss,
                reason = "counts of sockets, far below 2^53"
            )]
            Some((before, more)) if more >= SURELY_SEEN => {
                group.tally.sockets as f64 >= before as f64 + more / 2.0
            }
            _ => group
                .tally
                .oldest
                .is_some_and(|oldest| oldest.time >= REQUEST),
        }
    }

    /// Whether a process has accepted anything since the last look.
    fn accepts(&self, process: &Process, group: &OwnedGroup, now: Instant) -> Option<bool> {
        if group.cause != Cause::Unaccepted {
            return None;
        }
        let (before, at) = self.unaccepted.get(&(process.id, group.service))?;
        let oldest = group.tally.oldest?;
        (before.is_exact && oldest.is_exact)
            .then(|| oldest.time + TOLERANCE < before.time + now.duration_since(*at))
    }
}

impl OwnedGroup {
    fn judge(&mut self) {
        let oldest = self.tally.oldest.map_or(Duration::ZERO, |age| age.time);
        let (role, sockets) = (self.service.role, self.tally.sockets);
        self.verdict = Verdict::of(role, self.cause, sockets, oldest, &self.facts);
    }
}
