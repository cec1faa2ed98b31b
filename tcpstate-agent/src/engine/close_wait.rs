//! Who keeps sockets in CLOSE_WAIT: what a look has found of them, joined with what it has found
//! processes to hold.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    collect::{
        close_wait::{
            Cause, Group, Holdings, Series, SeriesKey, Service, Survey, Tally, attribute, top,
        },
        owners::OwnerLabels,
    },
    host::process::{Descriptors, Process, ProcessId},
    kernel::HeldProcesses,
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
pub(super) struct CloseWaits {
    limit: usize,
    folded: u64,
    last: Option<Arc<CloseWait>>,
}

impl CloseWaits {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            folded: 0,
            last: None,
        }
    }

    /// What was found out last; `None` before the first time.
    pub(super) const fn last(&self) -> Option<&Arc<CloseWait>> {
        self.last.as_ref()
    }

    /// Groups that had no series of their own, summed over all times.
    pub(super) const fn folded(&self) -> u64 {
        self.folded
    }

    /// Takes note of what a look that took so long has found: the sockets, and what processes hold
    /// of them.
    pub(super) fn learn(
        &mut self,
        survey: &Survey,
        holdings: &Holdings,
        processes: &HeldProcesses,
        took: Duration,
    ) {
        let total = survey.total();
        let found = if total.sockets == 0 {
            CloseWait::nothing(Instant::now(), took)
        } else {
            self.with_owners(attribute(survey, holdings, took), total, processes, took)
        };
        self.last = Some(Arc::new(found));
    }

    /// Takes note that a look has found none.
    pub(super) fn learn_none(&mut self, took: Duration) {
        self.last = Some(Arc::new(CloseWait::nothing(Instant::now(), took)));
    }

    fn with_owners(
        &mut self,
        groups: Vec<Group>,
        total: Tally,
        processes: &HeldProcesses,
        took: Duration,
    ) -> CloseWait {
        let groups = named(groups, processes);
        let mut all = BTreeMap::<SeriesKey, Series>::new();
        for group in &groups {
            all.entry(group.key()).or_default().add(&group.tally);
        }
        let (series, folded) = top(all, self.limit);
        self.folded += folded;
        CloseWait {
            descriptors: descriptors(&groups, &series),
            groups,
            total,
            series,
            at: Instant::now(),
            took,
        }
    }
}

impl CloseWait {
    /// What there is to say where no socket is in CLOSE_WAIT.
    pub(super) fn nothing(at: Instant, took: Duration) -> Self {
        Self {
            groups: Vec::new(),
            total: Tally::default(),
            series: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            at,
            took,
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
            Entry::Occupied(mut same) => {
                same.get_mut().tally.merge(&group.tally);
            }
            Entry::Vacant(place) => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::close_wait::{Age, Role};

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
