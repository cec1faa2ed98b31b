//! What a scrape sees.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use tcpstate_common::TcpState;
use tracing::{debug, warn};

use super::{
    close_wait::CloseWait,
    reader::Fresh,
    reading::{CloseWaitReading, Events, NamespaceReading, Reading, SnapshotState},
    state::Engine,
};
use crate::{
    collect::{listeners::ListeningSocket, segments::Follower, sockets::Census},
    host::Orphans,
    kernel::{Counted, Resets},
};

impl Engine {
    pub(super) fn read(&mut self) -> Reading {
        let started = Instant::now();
        let fresh = self.fresh();
        self.look_if_cheap(started);
        let by_namespace = self.by_namespace(fresh.as_ref(), started);
        // Before the first look there is nothing to show, and a part is not shown as if it were all.
        // A sum over nothing is no zero.
        let is_counted = self.is_counted() && !by_namespace.is_empty();
        let sockets = is_counted.then(|| {
            let mut sum = Census::default();
            for namespace in by_namespace.values() {
                sum += &namespace.sockets;
            }
            sum
        });
        // Together, so that they agree with each other.
        let counted = self.counted();
        self.tell_what_is_refused();
        Reading {
            outgoing: is_counted.then(|| {
                self.going.reading(
                    self.namespaces.all(),
                    &by_namespace,
                    &mut self.admission,
                    started,
                )
            }),
            orphans: Orphans::read()
                .inspect_err(|error| debug!(%error, "cannot read how many orphans there are"))
                .ok(),
            close_wait: self.close_wait(sockets.as_ref()),
            durations: counted.map(|counted| counted.durations),
            closes: counted.map(|counted| counted.closes),
            resets: self.resets(),
            listeners: fresh.as_ref().filter(|_| is_counted).map(|fresh| {
                self.listeners.reading(
                    &fresh.listeners,
                    self.namespaces.served(),
                    self.namespaces.half_open(),
                    fresh.took,
                    &mut self.admission,
                )
            }),
            handshakes: counted.map(|counted| counted.handshakes),
            sockets,
            snapshot: is_counted.then(|| self.snapshot(&by_namespace)),
            by_namespace,
            transitions: counted.map(|counted| counted.transitions),
            missed: self.kernel.flow.as_ref().and_then(|_| self.missed()),
            events: self.events(),
            namespaces: self.kernel.orders.as_ref().map(|_| self.namespaces.count()),
            kernel_counters: *self.namespaces.kernel_counters(),
            limits: self.namespaces.own_limits(),
            max_orphans: Orphans::limit(),
            faults: self.kernel.orders.as_ref().map(|_| self.sums),
            segments: self
                .kernel
                .segments
                .as_ref()
                .map(|interfaces| interfaces.read_with(Follower::read)),
            programs: self.kernel.programs.clone(),
        }
    }

    fn by_namespace(
        &self,
        fresh: Option<&Fresh>,
        started: Instant,
    ) -> BTreeMap<u32, NamespaceReading> {
        let half_open = fresh.map(|fresh| half_open(&fresh.listeners));
        // One that this scrape has taken knows those half open too that have no listener.
        let is_fresh = self.last.is_some_and(|last| last.began >= started);
        let known = self
            .namespaces
            .all()
            .filter_map(|watched| Some((watched, watched.model.as_ref()?)));
        let readings = known.map(|(watched, model)| {
            let inode = watched.id.inode;
            // What cannot be read now is what it was at the last look.
            let live = self.live(watched).unwrap_or(*model.at_pass());
            let minisockets = fresh.map(|_| watched.minisockets);
            let sockets = match &half_open {
                Some(half_open) if !is_fresh => {
                    let half_open = half_open.get(&inode).copied();
                    model.census_with(&live, minisockets, half_open.unwrap_or_default())
                }
                _ => model.census(&live, minisockets),
            };
            let reading = NamespaceReading {
                sockets,
                minisockets: model.minisockets(&live, minisockets),
                live,
                counted_at: model.counted_at(),
            };
            (inode, reading)
        });
        readings.collect()
    }

    /// What the transition program has counted; `None` where it does not run.
    fn counted(&mut self) -> Option<Counted> {
        let counted = self.kernel.flow.as_mut()?.counted();
        counted
            .inspect_err(|error| warn!(%error, "cannot read the transition counters"))
            .ok()
    }

    fn resets(&mut self) -> Option<Resets> {
        let resets = self.kernel.resets.as_mut()?.read();
        resets
            .inspect_err(|error| warn!(%error, "cannot read the resets"))
            .ok()
    }

    /// What was found out last, or nothing where no socket is in CLOSE_WAIT any more.
    fn close_wait(&self, sockets: Option<&Census>) -> Option<CloseWaitReading> {
        if !self.kernel.tells_owners {
            return None;
        }
        let is_empty = sockets?.in_state(TcpState::CloseWait) == 0;
        let last = self.close_waits.last();
        let found = if is_empty {
            let took = last.map_or(Duration::ZERO, |last| last.took);
            Arc::new(CloseWait::nothing(Instant::now(), took))
        } else {
            Arc::clone(last?)
        };
        Some(CloseWaitReading {
            age: found.at.elapsed(),
            found,
            folded: self.close_waits.folded(),
        })
    }

    fn events(&mut self) -> Option<Events> {
        // The kernel's side first, then the ring is emptied: so nothing of what it counted is still
        // on the way. What comes in between is decoded and not yet in its count.
        let mut kernel = self
            .kernel
            .flow
            .as_ref()?
            .events()
            .inspect_err(|error| warn!(%error, "cannot read the event counters"))
            .ok()?;
        kernel.untracked += self.namespaces.uncertain_transitions();
        self.drain();
        let read = self.kernel.events.as_ref()?.records_read();
        Some(Events {
            kernel,
            decoded: read.decoded,
            malformed: read.malformed,
        })
    }

    fn snapshot(&self, by_namespace: &BTreeMap<u32, NamespaceReading>) -> SnapshotState {
        let now = Instant::now();
        let models = self.namespaces.all();
        let models = models.filter_map(|watched| {
            let live = &by_namespace.get(&watched.id.inode)?.live;
            Some(watched.model.as_ref()?.uncertain(live))
        });
        let uncertain = models.sum();
        SnapshotState {
            duration: self.last.map_or(Duration::ZERO, |last| last.took),
            age: self.last.map_or(Duration::ZERO, |last| {
                now.saturating_duration_since(last.began)
            }),
            uncertain: self.kernel.flow.is_some().then_some(uncertain),
            unknown: self.last.map_or(0, |last| last.unknown),
        }
    }
}

/// Half-open connections by family, of every namespace that has some.
fn half_open(listeners: &[ListeningSocket]) -> FxHashMap<u32, [u64; 2]> {
    let mut all = FxHashMap::<u32, [u64; 2]>::default();
    for socket in listeners.iter().filter(|socket| socket.half_open > 0) {
        all.entry(socket.namespace).or_default()[socket.family.slot()] +=
            u64::from(socket.half_open);
    }
    all
}
