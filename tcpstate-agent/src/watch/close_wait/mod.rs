//! Finding out who keeps sockets in CLOSE_WAIT: a walk over the sockets of the namespaces that
//! have some, and right behind it one over the descriptors of all processes; or, where every socket
//! is known to be held by a descriptor, that one alone ([`held`]).

mod held;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tcpstate_common::TcpState;
use tracing::warn;

use self::held::{Trust, are_exact};
use super::{
    count::{Look, Walk},
    kernel::Netstat,
    shared::{Shared, lock},
};
use crate::{
    bpf::HeldProcesses,
    model::close_wait::{
        Cause, Group, Holdings, OwnerLabels, Series, SeriesKey, Service, Survey, Tally, TickRate,
        attribute, top,
    },
    netns::{Namespace, Visitor},
    process::{Descriptors, Process, ProcessId},
};

/// Who keeps sockets in CLOSE_WAIT.
#[derive(Clone, Debug)]
pub struct CloseWait {
    /// Every group.
    pub groups: Vec<OwnedGroup>,
    /// All of them together.
    pub total: Tally,
    /// The groups as series, the smaller ones folded together.
    pub series: BTreeMap<SeriesKey, Series>,
    /// The descriptors of the owners that have series: of several processes with equal labels
    /// those of the one that is closest to its limit.
    pub descriptors: BTreeMap<OwnerLabels, Descriptors>,
    /// When it was found out.
    pub at: Instant,
    /// How long that took.
    pub took: Duration,
    /// Whether the sockets themselves were walked over, and not descriptors alone.
    pub is_surveyed: bool,
}

/// Sockets in CLOSE_WAIT that one process keeps there for one reason.
#[derive(Clone, Debug)]
pub struct OwnedGroup {
    /// The process, where one holds them.
    pub owner: Option<Arc<Process>>,
    /// Other processes that have some of them too.
    pub co_owners: BTreeSet<ProcessId>,
    /// What the connections are for.
    pub service: Service,
    /// Why they stay.
    pub cause: Cause,
    /// The descriptor that the process has of the oldest; `None` where it has none.
    pub oldest_descriptor: Option<u32>,
    /// How many, and since when.
    pub tally: Tally,
}

/// What is kept from one time to the next.
#[derive(Debug)]
pub(super) struct Naming {
    limit: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    folded: u64,
    last: Option<Arc<CloseWait>>,
    /// When finding that out began.
    begun: Option<Instant>,
    trust: Trust,
}

impl Known {
    /// Three threads find out, and what began later knows more.
    fn learn(&mut self, found: &Arc<CloseWait>, begun: Instant) {
        if self.begun < Some(begun) {
            self.begun = Some(begun);
            self.last = Some(Arc::clone(found));
        }
    }
}

impl Naming {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            known: Mutex::default(),
        }
    }
}

impl CloseWait {
    /// What there is to say where no socket is in CLOSE_WAIT. Finding that out takes as long as it
    /// took before.
    pub(super) fn nothing(before: Option<&Arc<Self>>, at: Instant) -> Self {
        Self {
            groups: Vec::new(),
            total: Tally::default(),
            series: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            at,
            took: before.map_or(Duration::ZERO, |before| before.took),
            is_surveyed: true,
        }
    }

    /// Whether each socket was found with a process that holds it.
    fn are_all_held(&self) -> bool {
        let mut groups = self.groups.iter();
        groups.all(|group| group.owner.is_some() && group.cause != Cause::Unaccepted)
    }
}

impl Shared {
    /// What was found out last; `None` before the first time.
    pub(super) fn last_close_wait(&self) -> Option<Arc<CloseWait>> {
        lock(&self.naming.known).last.clone()
    }

    /// Groups that had no series of their own, summed over all times.
    pub(super) fn close_wait_folded(&self) -> u64 {
        lock(&self.naming.known).folded
    }

    /// The namespaces that have sockets in CLOSE_WAIT by what is known of them.
    pub(super) fn with_close_wait(&self) -> Vec<Namespace> {
        let has_some = |inode: u32, model: &crate::model::NamespaceModel| {
            let census = model.census(&self.counters(inode), None);
            census.in_state(TcpState::CloseWait) > 0
        };
        self.namespaces()
            .watched
            .values()
            .filter(|watched| {
                let model = watched.model.as_ref();
                model.is_some_and(|model| has_some(watched.namespace.inode, model))
            })
            .map(|watched| watched.namespace.clone())
            .collect()
    }

    /// Finds out who keeps sockets in CLOSE_WAIT. `None` where that cannot be told, or with
    /// [`Walk::IfFree`] where another thread is walking.
    pub(super) fn name_close_wait(&self, visitor: &Visitor, walk: Walk) -> Option<Arc<CloseWait>> {
        let begun = Instant::now();
        let socket_pass = self.socket_pass.as_ref().filter(|_| self.tells_owners)?;
        let tick_rate = {
            let sample = walk.begin(socket_pass)?.clock();
            TickRate::of(
                sample
                    .inspect_err(|error| warn!(%error, "cannot read the kernel's clock"))
                    .ok()?,
            )
        };
        let found = match self.found_with_holders(walk, tick_rate, begun) {
            Some(found) => found,
            None => self.survey_close_wait(visitor, walk, tick_rate, begun)?,
        };
        let found = Arc::new(found);
        lock(&self.naming.known).learn(&found, begun);
        Some(found)
    }

    /// Walks over the sockets, and then over the descriptors.
    fn survey_close_wait(
        &self,
        visitor: &Visitor,
        walk: Walk,
        tick_rate: Option<TickRate>,
        begun: Instant,
    ) -> Option<CloseWait> {
        let socket_pass = self.socket_pass.as_ref()?;
        let before = self.standings();
        let mut survey = Survey::new(monotonic_ns(), tick_rate);
        for namespace in self.with_close_wait() {
            let look = Look::CloseWait(&mut survey);
            if !self.count(visitor, &namespace, walk, Netstat::IfNeeded, Some(look)) {
                return None;
            }
        }
        let total = survey.total();
        if total.sockets == 0 {
            return Some(CloseWait {
                took: begun.elapsed(),
                ..CloseWait::nothing(None, begun)
            });
        }
        let mut holdings = Holdings::default();
        let mut listeners = self.begin_owner_walk();
        let walked = walk.begin(socket_pass)?.owners(|owner| {
            holdings.add(&owner, &survey);
            if let Some(listeners) = &mut listeners {
                listeners.add(&owner);
            }
        });
        let processes = walked
            .inspect_err(|error| warn!(%error, "cannot tell who holds the sockets in CLOSE_WAIT"))
            .ok()?;
        if let Some(listeners) = listeners {
            self.end_owner_walk(listeners, &processes);
        }
        let groups = attribute(&survey, &holdings, begun.elapsed());
        let found = self.with_owners(groups, total, &processes, begun);
        let after = self.standings();
        let is_plain = found.are_all_held() && are_exact(&after) && before == after;
        lock(&self.naming.known).trust.surveyed(is_plain);
        Some(found)
    }

    fn with_owners(
        &self,
        groups: Vec<Group>,
        total: Tally,
        processes: &HeldProcesses,
        begun: Instant,
    ) -> CloseWait {
        let groups = named(groups, processes);
        let mut all = BTreeMap::<SeriesKey, Series>::new();
        for group in &groups {
            all.entry(group.key()).or_default().add(&group.tally);
        }
        let (series, folded) = top(all, self.naming.limit);
        lock(&self.naming.known).folded += folded;
        CloseWait {
            descriptors: descriptors(&groups, &series),
            groups,
            total,
            series,
            at: Instant::now(),
            took: begun.elapsed(),
            is_surveyed: true,
        }
    }
}

impl OwnedGroup {
    fn labels(&self) -> OwnerLabels {
        self.owner
            .as_ref()
            .map_or_else(OwnerLabels::default, |process| OwnerLabels::of(process))
    }

    fn key(&self) -> SeriesKey {
        SeriesKey {
            owner: self.labels(),
            role: self.service.role,
            port: (self.service.port != 0).then_some(self.service.port),
            cause: self.cause,
        }
    }
}

/// Looks the processes up. Sockets of those that the walk did not remember have no owner.
fn named(groups: Vec<Group>, processes: &HeldProcesses) -> Vec<OwnedGroup> {
    let mut named = BTreeMap::<(Option<ProcessId>, Service, Cause), OwnedGroup>::new();
    for group in groups {
        let owner = group.owner.and_then(|id| processes.get(&id).cloned());
        let key = (
            owner.as_ref().map(|process| process.id),
            group.service,
            group.cause,
        );
        match named.entry(key) {
            // Only those of nobody: processes that are not known are not told apart.
            std::collections::btree_map::Entry::Occupied(mut same) => {
                same.get_mut().tally.merge(&group.tally);
            }
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(OwnedGroup {
                    oldest_descriptor: group.oldest_descriptor.filter(|_| owner.is_some()),
                    owner,
                    co_owners: group.co_owners,
                    service: group.service,
                    cause: group.cause,
                    tally: group.tally,
                });
            }
        }
    }
    named.into_values().collect()
}

fn descriptors(
    groups: &[OwnedGroup],
    series: &BTreeMap<SeriesKey, Series>,
) -> BTreeMap<OwnerLabels, Descriptors> {
    let mut by_process = BTreeMap::new();
    for group in groups {
        if let Some(process) = &group.owner
            && series.contains_key(&group.key())
        {
            by_process.insert(process.id, (group.labels(), process.descriptors));
        }
    }
    let mut worst = BTreeMap::<OwnerLabels, Descriptors>::new();
    for (labels, found) in by_process.into_values() {
        let is_worse = worst
            .get(&labels)
            .is_none_or(|known| headroom(&found) < headroom(known));
        if is_worse {
            worst.insert(labels, found);
        }
    }
    worst
}

/// Descriptors that can still be opened.
fn headroom(descriptors: &Descriptors) -> u64 {
    descriptors
        .limit
        .unwrap_or(u64::MAX)
        .saturating_sub(descriptors.open)
}

/// `CLOCK_MONOTONIC`, by which the kernel side writes down beginnings.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::try_from(now).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::close_wait::{Age, Role};

    #[test]
    fn what_began_earlier_does_not_replace_what_began_later() {
        let begun = Instant::now();
        let found = || Arc::new(CloseWait::nothing(None, begun));
        let [first, slow, quick] = [found(), found(), found()];
        let mut known = Known::default();
        let second = Duration::from_secs(1);
        for (found, begun, expected) in [
            (&first, begun, &first),
            (&quick, begun + 2 * second, &quick),
            (&slow, begun + second, &quick),
        ] {
            known.learn(found, begun);
            assert!(Arc::ptr_eq(known.last.as_ref().unwrap(), expected));
        }
    }

    #[test]
    fn what_processes_have_that_are_not_known_is_one_group_of_nobody() {
        // No process has such a number.
        let group = |tgid: Option<u32>, sockets: u64| Group {
            owner: tgid.map(|tgid| ProcessId {
                tgid,
                start_boottime_ns: 1,
            }),
            co_owners: BTreeSet::new(),
            service: Service {
                namespace: 1,
                role: Role::Server,
                port: 80,
            },
            cause: Cause::EofRead,
            oldest_descriptor: tgid,
            tally: Tally {
                sockets,
                oldest: Some(Age {
                    time: Duration::from_secs(sockets),
                    is_exact: true,
                }),
                ..Tally::default()
            },
        };
        let groups = vec![
            group(Some(u32::MAX), 3),
            group(None, 4),
            group(Some(u32::MAX - 1), 5),
        ];
        let named = named(groups, &HeldProcesses::default());
        let [nobodys] = &named[..] else {
            panic!("{named:?}");
        };
        assert!(nobodys.owner.is_none() && nobodys.oldest_descriptor.is_none());
        assert_eq!(nobodys.tally.sockets, 12);
        assert_eq!(nobodys.tally.oldest.map(|age| age.time.as_secs()), Some(5));
    }
}
