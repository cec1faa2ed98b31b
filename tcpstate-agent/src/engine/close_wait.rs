//! Who keeps sockets in CLOSE_WAIT: what a look has found of them, joined with what it has found
//! processes to hold.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{facts::Memory, listeners::boottime, look::FoundOwners};
use crate::{
    collect::{
        Admission,
        close_wait::{
            Cause, Facts, Group, HolderFacts, MptcpTally, Series, SeriesKey, Service, Survey,
            Tally, Verdict, VerdictKey, attribute, top,
        },
        owners::{CgroupIdentity, Naming, OwnerLabels},
    },
    host::process::{Descriptors, Process, ProcessId},
};

/// Who keeps sockets in CLOSE_WAIT.
#[derive(Clone, Debug)]
pub struct CloseWait {
    /// Every group.
    pub groups: Vec<OwnedGroup>,
    /// MPTCP connections that their peers have closed, by process and service. They are in no other
    /// number here.
    pub mptcp: Vec<(Arc<Process>, Service, MptcpTally)>,
    /// All of them together.
    pub total: Tally,
    /// The groups as series, the smaller ones folded together.
    pub series: BTreeMap<SeriesKey, Series>,
    /// The same sockets by what is wrong with them.
    pub verdicts: BTreeMap<VerdictKey, u64>,
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
    /// Who ran what made them, or the listener that they came to, where no process holds them and
    /// that is known. It is not who uses them where a socket was passed on: of one that systemd
    /// listens on for a service it is systemd.
    pub made_in: Option<CgroupIdentity>,
    /// Other processes that have some of them too.
    pub co_owners: BTreeSet<ProcessId>,
    /// Their names, as far as they are known.
    pub co_owner_names: BTreeSet<String>,
    /// What the connections are for.
    pub service: Service,
    /// Why they stay.
    pub cause: Cause,
    /// The descriptor that the process has of the oldest; `None` where it has none.
    pub oldest_descriptor: Option<u32>,
    /// How many, and since when.
    pub tally: Tally,
    /// Of those that were not accepted: how many others wait with them.
    pub waiting_alive: u64,
    /// Of those that were not accepted: it is not known which of the owners accepts.
    pub is_one_of: bool,
    /// The owners, where that is so.
    pub candidates: Vec<(Arc<Process>, HolderFacts)>,
    /// What tells what is wrong.
    pub facts: Facts,
    /// What is wrong, most likely.
    pub verdict: Verdict,
}

/// What is kept from one time to the next.
pub(super) struct CloseWaits {
    limit: usize,
    folded: u64,
    memory: Memory,
    last: Option<Arc<CloseWait>>,
}

impl CloseWaits {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            folded: 0,
            memory: Memory::default(),
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
        owners: &FoundOwners,
        took: Duration,
        naming: &mut Naming,
        admission: &mut Admission,
    ) {
        let total = survey.total();
        let mut found = if total.sockets == 0 {
            CloseWait::nothing(Instant::now(), took)
        } else {
            let mut groups = named(attribute(survey, &owners.holdings, took), owners);
            self.memory
                .judge(&mut groups, survey, owners, Instant::now());
            self.of_groups(groups, total, took, naming, admission)
        };
        let mptcp = owners.holdings.mptcp().iter();
        let mptcp = mptcp.filter_map(|(&(id, service), tally)| {
            Some((Arc::clone(owners.processes.get(&id)?), service, *tally))
        });
        found.mptcp = mptcp.collect();
        self.last = Some(Arc::new(found));
    }

    /// Takes note that a look has found none.
    pub(super) fn learn_none(&mut self, took: Duration) {
        self.last = Some(Arc::new(CloseWait::nothing(Instant::now(), took)));
    }

    fn of_groups(
        &mut self,
        groups: Vec<OwnedGroup>,
        total: Tally,
        took: Duration,
        naming: &mut Naming,
        admission: &mut Admission,
    ) -> CloseWait {
        let (now, since_boot) = (Instant::now(), boottime());
        let keys: Vec<SeriesKey> = groups
            .iter()
            .map(|group| group.key(naming, since_boot))
            .collect();
        let mut all = BTreeMap::<SeriesKey, Series>::new();
        for (group, key) in groups.iter().zip(&keys) {
            all.entry(key.clone()).or_default().add(&group.tally);
        }
        let (series, folded) = top(all, self.limit, admission, now);
        self.folded += folded;
        CloseWait {
            verdicts: verdicts(groups.iter().zip(&keys), &series),
            descriptors: descriptors(groups.iter().zip(&keys), &series),
            groups,
            mptcp: Vec::new(),
            total,
            series,
            at: now,
            took,
        }
    }
}

impl CloseWait {
    /// What there is to say where no socket is in CLOSE_WAIT.
    pub(super) fn nothing(at: Instant, took: Duration) -> Self {
        Self {
            groups: Vec::new(),
            mptcp: Vec::new(),
            total: Tally::default(),
            series: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            at,
            took,
        }
    }
}

impl OwnedGroup {
    fn labels(&self, naming: &mut Naming, since_boot: Duration) -> OwnerLabels {
        match &self.owner {
            Some(process) => OwnerLabels::clone(&naming.of(process, since_boot)),
            None => naming.of_cgroup(self.made_in.clone().unwrap_or_default()),
        }
    }

    fn key(&self, naming: &mut Naming, since_boot: Duration) -> SeriesKey {
        SeriesKey {
            owner: self.labels(naming, since_boot),
            role: self.service.role,
            port: (self.service.port != 0).then_some(self.service.port),
            cause: self.cause,
        }
    }
}

/// Looks the processes up. Sockets of those that the walk did not remember have no owner.
fn named(groups: Vec<Group>, owners: &FoundOwners) -> Vec<OwnedGroup> {
    let mut named = BTreeMap::<(Option<ProcessId>, Service, Cause), OwnedGroup>::new();
    for group in groups {
        let owner = group
            .owner
            .and_then(|id| owners.processes.get(&id).cloned());
        let made_in = group.made_in.and_then(|cgroup| owners.cgroups.get(&cgroup));
        let key = (
            owner.as_ref().map(|process| process.id),
            group.service,
            group.cause,
        );
        match named.entry(key) {
            // Only those of nobody: processes that are not known are not told apart.
            Entry::Occupied(mut same) => {
                let same = same.get_mut();
                same.tally.merge(&group.tally);
                if same.made_in.as_ref() != made_in {
                    same.made_in = None;
                }
            }
            Entry::Vacant(place) => {
                place.insert(OwnedGroup {
                    oldest_descriptor: group.oldest_descriptor.filter(|_| owner.is_some()),
                    owner,
                    made_in: made_in.cloned(),
                    co_owner_names: group
                        .co_owners
                        .iter()
                        .filter_map(|id| Some(owners.processes.get(id)?.name.clone()))
                        .collect(),
                    co_owners: group.co_owners,
                    service: group.service,
                    cause: group.cause,
                    tally: group.tally,
                    waiting_alive: group.living,
                    is_one_of: group.is_one_of,
                    candidates: Vec::new(),
                    facts: Facts::default(),
                    verdict: Verdict::Other,
                });
            }
        }
    }
    named.into_values().collect()
}

/// The groups by what is wrong with them, those together that have no series of their own.
fn verdicts<'a>(
    groups: impl Iterator<Item = (&'a OwnedGroup, &'a SeriesKey)>,
    series: &BTreeMap<SeriesKey, Series>,
) -> BTreeMap<VerdictKey, u64> {
    let mut verdicts = BTreeMap::new();
    for (group, key) in groups {
        let SeriesKey {
            owner, role, port, ..
        } = if series.contains_key(key) {
            key.clone()
        } else {
            key.clone().folded()
        };
        let key = VerdictKey {
            owner,
            role,
            port,
            verdict: group.verdict,
        };
        *verdicts.entry(key).or_default() += group.tally.sockets;
    }
    verdicts
}

fn descriptors<'a>(
    groups: impl Iterator<Item = (&'a OwnedGroup, &'a SeriesKey)>,
    series: &BTreeMap<SeriesKey, Series>,
) -> BTreeMap<OwnerLabels, Descriptors> {
    let mut by_process = BTreeMap::new();
    for (group, key) in groups {
        if let Some(process) = &group.owner
            && series.contains_key(key)
        {
            by_process.insert(process.id, (key.owner.clone(), process.descriptors));
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
    descriptors.left().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rustc_hash::FxHashMap;

    use super::{super::listeners::HolderWalk, *};
    use crate::{
        collect::close_wait::{Age, Holdings, Role},
        kernel::HeldProcesses,
    };

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
            made_in: tgid.is_none().then_some(7),
            living: 0,
            is_one_of: false,
            tally: Tally {
                sockets,
                oldest: Some(Age {
                    time: Duration::from_secs(sockets),
                    is_exact: true,
                }),
                ..Tally::default()
            },
        };
        let identity = CgroupIdentity {
            unit: "web.service".to_owned(),
            ..CgroupIdentity::default()
        };
        let groups = vec![
            group(Some(u32::MAX), 3),
            group(None, 4),
            group(Some(u32::MAX - 1), 5),
        ];
        let owners = FoundOwners {
            holdings: Holdings::default(),
            listeners: HolderWalk::new(&[]),
            processes: HeldProcesses::default(),
            cgroups: FxHashMap::from_iter([(7, identity)]),
            port_holders: FxHashMap::default(),
        };
        let held = named(vec![group(None, 4)], &owners);
        let labels = held[0].labels(&mut Naming::default(), Duration::ZERO);
        assert_eq!(labels.unit, "web.service");
        let named = named(groups, &owners);
        let [nobodys] = &named[..] else {
            panic!("{named:?}");
        };
        assert!(nobodys.owner.is_none() && nobodys.oldest_descriptor.is_none());
        // Not all of them are known to be that service's.
        assert_eq!(nobodys.made_in, None);
        assert_eq!(nobodys.tally.sockets, 12);
        assert_eq!(nobodys.tally.oldest.map(|age| age.time.as_secs()), Some(5));
    }
}
