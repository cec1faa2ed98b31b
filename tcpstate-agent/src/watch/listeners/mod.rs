//! Listening sockets: their queues, read afresh at each scrape, joined with who holds them
//! ([`owners`]) and with the connections that belong to them ([`services`]).
//!
//! Locks are held for as long as it takes to read a map or to add up what was read, and never
//! while `/proc` is read or descriptors are walked over: scrapes wait for them.

mod owners;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use tcpstate_common::HalfOpenCounts;
use tracing::warn;

use self::{
    owners::{Known, Owners},
    services::Services,
};
use super::shared::{Shared, lock};
use crate::{
    bpf::{ListenerTable, ServiceTable},
    decode::ListeningSocket,
    model::listeners::{
        Assignment, Increments, Labelled, Listener, ListenerKey, ListenerSeries, Place, Served,
        Totals, group, top,
    },
    process::{Process, ProcessId},
};

/// What is kept from one look to the next.
pub(super) struct Listening {
    table: Mutex<ListenerTable>,
    owners: Mutex<Arc<Owners>>,
    services: Mutex<Services>,
    found: Mutex<Found>,
    shown: Mutex<Shown>,
}

/// What the last snapshots have found, by namespace.
#[derive(Default)]
struct Found {
    served: BTreeMap<u32, Served>,
    half_open: BTreeMap<u32, HalfOpenCounts>,
}

/// What scrapes have shown.
struct Shown {
    /// Series of their own.
    limit: usize,
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
    /// Half-open connections by age and retransmits, as the last snapshots have found them.
    pub half_open: HalfOpenCounts,
    /// How long it took to read the queues.
    pub took: Duration,
    /// Listeners that had no series of their own, summed over all times.
    pub folded: u64,
}

/// The listening sockets at one moment.
pub(super) struct Queues {
    sockets: Vec<ListeningSocket>,
    took: Duration,
}

impl Listening {
    pub(super) fn new((table, services): (ListenerTable, ServiceTable), limit: usize) -> Self {
        Self {
            table: Mutex::new(table),
            owners: Mutex::default(),
            services: Mutex::new(Services::new(services)),
            found: Mutex::default(),
            shown: Mutex::new(Shown {
                limit,
                assigned: Assigned::default(),
                increments: Increments::default(),
                totals: Totals::default(),
                folded: 0,
            }),
        }
    }

    /// Every listening socket; `None` where they cannot be read.
    fn read(&self) -> Option<Vec<ListeningSocket>> {
        lock(&self.table)
            .read()
            .inspect_err(|error| warn!(%error, "cannot read the listening sockets"))
            .ok()
    }

    fn owners(&self) -> Arc<Owners> {
        Arc::clone(&lock(&self.owners))
    }
}

impl Assigned {
    fn refresh(
        &mut self,
        owners: Arc<Owners>,
        sockets: &[ListeningSocket],
        walks: bool,
    ) -> &Assignment {
        let known = sockets.iter().map(Known::of);
        if !Arc::ptr_eq(&self.owners, &owners) || !self.sockets.iter().copied().eq(known.clone()) {
            let holders: Vec<_> = owners.of(sockets, walks).collect();
            let labelled = holders.iter().map(|holder| {
                holder.map(|holder| Labelled {
                    labels: owners.labels(holder),
                    order: holder.order(),
                })
            });
            self.assignment = Assignment::new(sockets.iter().zip(labelled));
            self.sockets.clear();
            self.sockets.extend(known);
            self.owners = owners;
        }
        &self.assignment
    }
}

impl Queues {
    /// Half-open connections by family, of every namespace that has some.
    pub(super) fn all_half_open(&self) -> FxHashMap<u32, [u64; 2]> {
        let mut all = FxHashMap::<u32, [u64; 2]>::default();
        for socket in &self.sockets {
            if socket.half_open > 0 {
                all.entry(socket.namespace).or_default()[socket.family.slot()] +=
                    u64::from(socket.half_open);
            }
        }
        all
    }
}

impl Shared {
    /// The queues of all listening sockets; `None` where they cannot be read.
    pub(super) fn queues(&self) -> Option<Queues> {
        let begun = Instant::now();
        let sockets = self.listening.as_ref()?.read()?;
        Some(Queues {
            sockets,
            took: begun.elapsed(),
        })
    }

    /// Takes note of what the kernel has counted so far for those that were there before the agent,
    /// so that their counters begin with it and not with the first scrape.
    pub(super) fn note_listeners(&self) {
        if let Some(listening) = &self.listening
            && let Some(sockets) = listening.read()
        {
            let not_shown_yet = sockets.iter().map(|socket| (socket, false));
            lock(&listening.shown).increments.look(not_shown_yet);
        }
    }

    /// What a scrape shows of them.
    pub(super) fn listeners_reading(&self, queues: &Queues) -> Option<ListenersReading> {
        let begun = Instant::now();
        let listening = self.listening.as_ref()?;
        let owners = listening.owners();
        let sockets = &queues.sockets;
        let mut shown = lock(&listening.shown);
        let Shown {
            limit,
            assigned,
            increments,
            totals,
            folded,
        } = &mut *shown;
        let assignment = assigned.refresh(owners, sockets, self.tells_owners);
        let are_known = assignment.of_sockets().map(|series| series.is_some());
        let of_each = increments.look(sockets.iter().zip(are_known));
        let found = lock(&listening.found);
        let with_increments = sockets.iter().zip(of_each.iter().copied());
        let (series, newly_folded) =
            top(assignment, with_increments, &found.served, *limit, totals);
        *folded += newly_folded;
        let mut half_open = HalfOpenCounts::default();
        for of_namespace in found.half_open.values() {
            half_open.merge(of_namespace);
        }
        Some(ListenersReading {
            series,
            half_open,
            took: queues.took + begun.elapsed(),
            folded: *folded,
        })
    }

    /// What listens, each with its process.
    pub(super) fn owned_listeners(&self) -> Option<Vec<OwnedListener>> {
        if self.tells_owners {
            self.find_listener_owners();
        }
        let listening = self.listening.as_ref()?;
        let sockets = listening.read()?;
        let owners = listening.owners();
        let holders = owners.of(&sockets, self.tells_owners);
        let known: Vec<_> = sockets
            .iter()
            .zip(holders)
            .filter_map(|(socket, holder)| holder.map(|holder| (*socket, holder.process())))
            .collect();
        let mut co_owners = BTreeMap::<Place, BTreeSet<ProcessId>>::new();
        for (socket, owner) in &known {
            let others = owners.co_owners(socket.socket);
            if !others.is_empty() {
                let place = Place::of(socket, *owner);
                co_owners.entry(place).or_default().extend(others);
            }
        }
        let listeners = group(known, &lock(&listening.found).served);
        let owned = listeners.into_iter().map(|listener| OwnedListener {
            process: listener.place.owner.and_then(|id| owners.process(id)),
            co_owners: co_owners.remove(&listener.place).unwrap_or_default(),
            listener,
        });
        Some(owned.collect())
    }
}
