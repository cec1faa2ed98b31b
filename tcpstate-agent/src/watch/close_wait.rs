//! Who keeps sockets in CLOSE_WAIT: what a look has found of them, joined with what it has found
//! processes to hold.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    model::close_wait::{
        Cause, Group, Holdings, OwnerLabels, Series, SeriesKey, Service, Survey, Tally, attribute,
        top,
    },
    process::{Descriptors, Process, ProcessId, Processes},
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
    processes: Processes,
    folded: u64,
    last: Option<Arc<CloseWait>>,
}

impl CloseWaits {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            processes: Processes::default(),
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
    pub(super) fn learn(&mut self, survey: &Survey, holdings: &Holdings, took: Duration) {
        let total = survey.total();
        let found = if total.sockets == 0 {
            CloseWait::nothing(Instant::now(), took)
        } else {
            self.with_owners(attribute(survey, holdings, took), total, took)
        };
        self.last = Some(Arc::new(found));
    }

    /// Takes note that a look has found none.
    pub(super) fn learn_none(&mut self, took: Duration) {
        self.last = Some(Arc::new(CloseWait::nothing(Instant::now(), took)));
    }

    fn with_owners(&mut self, groups: Vec<Group>, total: Tally, took: Duration) -> CloseWait {
        let owners: BTreeSet<ProcessId> = groups.iter().filter_map(|group| group.owner).collect();
        let groups = named(groups, &mut self.processes);
        self.processes.keep_only(|id| owners.contains(id));
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

/// Looks the processes up. Sockets of one that has ended meanwhile have no owner: it took them
/// with it, or somebody else has them now.
fn named(groups: Vec<Group>, processes: &mut Processes) -> Vec<OwnedGroup> {
    let now = Instant::now();
    let mut named = BTreeMap::<(Option<ProcessId>, Service, Cause), OwnedGroup>::new();
    for group in groups {
        let owner = group.owner.and_then(|id| processes.get(id, now));
        let key = (
            owner.as_ref().map(|process| process.id),
            group.service,
            group.cause,
        );
        match named.entry(key) {
            // Only those of nobody: processes that have ended are not told apart any more.
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
            by_process.insert(process.id, group.labels());
        }
    }
    let mut worst = BTreeMap::<OwnerLabels, Descriptors>::new();
    for (id, labels) in by_process {
        // A process that has ended has none.
        let Ok(found) = Descriptors::read(id.tgid) else {
            continue;
        };
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
