//! Listening sockets: their queues, read afresh at each scrape, joined with who holds them
//! ([`owners`]) and with the connections that belong to them.

mod owners;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tcpstate_common::HalfOpenCounts;

pub(super) use self::owners::{HolderWalk, boottime};
use self::owners::{Known, Owners};
use crate::{
    collect::{
        Admission,
        listeners::{
            Assignment, Increments, Labelled, Listener, ListenerKey, ListenerSeries,
            ListeningSocket, Place, Served, Totals, group, top,
        },
        owners::Naming,
    },
    host::process::{Process, ProcessId},
    kernel::HeldProcesses,
};

/// How often to look who holds them at most where none is new: a descriptor can be handed over.
const OWNERS_EVERY: Duration = Duration::from_mins(1);
/// And where some are.
const OWNERS_PAUSE: Duration = Duration::from_secs(1);

/// What is kept from one look to the next.
pub(super) struct Listeners {
    /// Series of their own.
    limit: usize,
    /// Whether owners can be told.
    walks: bool,
    owners: Arc<Owners>,
    assigned: Assigned,
    increments: Increments,
    totals: Totals,
    folded: u64,
}

/// Which series the sockets belong to, for as long as they are the same and have the same owners.
#[derive(Default)]
struct Assigned {
    owners: Arc<Owners>,
    sockets: Vec<Known>,
    assignment: Assignment,
}

/// What listens, and who holds it.
#[derive(Clone, Debug)]
pub struct OwnedListener {
    /// The process, where one does.
    pub process: Option<Arc<Process>>,
    /// Other processes that hold some of its sockets too.
    pub co_owners: BTreeSet<ProcessId>,
    /// Its queues and connections.
    pub listener: Listener,
}

/// What one scrape sees of listening sockets.
#[derive(Clone, Debug)]
pub struct ListenersReading {
    /// The busiest, and the others together.
    pub series: Vec<(ListenerKey, ListenerSeries)>,
    /// Half-open connections by age and retransmits, as the last snapshot has found them.
    pub half_open: HalfOpenCounts,
    /// How long it took to read the queues.
    pub took: Duration,
    /// Listeners that had no series of their own, summed over all times.
    pub folded: u64,
}

impl Assigned {
    fn refresh(
        &mut self,
        owners: &Arc<Owners>,
        sockets: &[ListeningSocket],
        walks: bool,
    ) -> &Assignment {
        let known = sockets.iter().map(Known::of);
        if !Arc::ptr_eq(&self.owners, owners) || !self.sockets.iter().copied().eq(known.clone()) {
            let holders: Vec<_> = owners.of(sockets, walks).collect();
            let labelled = holders.iter().map(|holder| {
                holder.map(|holder| Labelled {
                    labels: owners.labels(holder),
                    order: holder.order(),
                })
            });
            self.assignment = Assignment::new(sockets.iter().zip(labelled));
            self.sockets = known.collect();
            self.owners = Arc::clone(owners);
        }
        &self.assignment
    }
}

impl Listeners {
    pub(super) fn new(limit: usize, walks: bool) -> Self {
        Self {
            limit,
            walks,
            owners: Arc::default(),
            assigned: Assigned::default(),
            increments: Increments::default(),
            totals: Totals::default(),
            folded: 0,
        }
    }

    /// Takes note of what the kernel has counted so far for those that were there before the agent,
    /// so that their counters begin with it and not with the first scrape.
    pub(super) fn note(&mut self, sockets: &[ListeningSocket]) {
        let not_shown_yet = sockets.iter().map(|socket| (socket, false));
        self.increments.look(not_shown_yet);
    }

    /// Whether to find out who holds them: some of `sockets` are new, or it was long ago. Where none
    /// is new, no more often than `every`.
    pub(super) fn owners_are_due(
        &self,
        sockets: &[ListeningSocket],
        every: Duration,
        now: Instant,
    ) -> bool {
        if !self.walks {
            return false;
        }
        // Until the first time there is nothing to show.
        self.owners.at.is_none_or(|at| {
            let age = now.saturating_duration_since(at);
            let is_new =
                age >= OWNERS_PAUSE && self.owners.of(sockets, true).any(|holder| holder.is_none());
            is_new || age >= OWNERS_EVERY.max(every)
        })
    }

    /// Takes note of who holds them.
    pub(super) fn learn_owners(
        &mut self,
        walk: HolderWalk,
        processes: &HeldProcesses,
        naming: &mut Naming,
        at: Instant,
    ) {
        self.owners = Arc::new(Owners::new(walk, processes, naming, &self.owners, at));
    }

    /// What a scrape shows of `sockets`, which took so long to read.
    pub(super) fn reading(
        &mut self,
        sockets: &[ListeningSocket],
        served: &BTreeMap<u32, Served>,
        half_open: HalfOpenCounts,
        read_in: Duration,
        admission: &mut Admission,
    ) -> ListenersReading {
        let begun = Instant::now();
        let assignment = self.assigned.refresh(&self.owners, sockets, self.walks);
        let are_known = assignment.of_sockets().map(|series| series.is_some());
        let of_each = self.increments.look(sockets.iter().zip(are_known));
        let with_increments = sockets.iter().zip(of_each.iter().copied());
        let (series, newly_folded) = top(
            assignment,
            with_increments,
            served,
            self.limit,
            &mut self.totals,
            admission,
            begun,
        );
        self.folded += newly_folded;
        ListenersReading {
            series,
            half_open,
            took: read_in + begun.elapsed(),
            folded: self.folded,
        }
    }

    /// What listens, each with its process.
    pub(super) fn owned(
        &self,
        sockets: &[ListeningSocket],
        served: &BTreeMap<u32, Served>,
    ) -> Vec<OwnedListener> {
        let holders = self.owners.of(sockets, self.walks);
        let known: Vec<_> = sockets
            .iter()
            .zip(holders)
            .filter_map(|(socket, holder)| holder.map(|holder| (*socket, holder.process())))
            .collect();
        let mut co_owners = BTreeMap::<Place, BTreeSet<ProcessId>>::new();
        for (socket, owner) in &known {
            let others = self.owners.co_owners(socket.socket);
            if !others.is_empty() {
                let place = Place::of(socket, *owner);
                co_owners.entry(place).or_default().extend(others);
            }
        }
        let owned = group(known, served)
            .into_iter()
            .map(|listener| OwnedListener {
                process: listener.place.owner.and_then(|id| self.owners.process(id)),
                co_owners: co_owners.remove(&listener.place).unwrap_or_default(),
                listener,
            });
        owned.collect()
    }
}
