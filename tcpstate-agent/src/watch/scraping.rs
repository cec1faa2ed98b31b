//! The scraping thread: one reading for every request.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tcpstate_common::TcpState;
use tracing::{debug, error, warn};

use super::{
    close_wait::CloseWait,
    count::Walk,
    reading::{
        CloseWaitReading, Events, NamespaceReading, NamespaceResults, Reading, SnapshotState,
    },
    shared::{Progress, Shared, lock},
};
use crate::{
    model::Census,
    netns::{Namespace, SockStat, VisitError, Visitor},
};

/// Where to send the answer.
pub(super) type Request = mpsc::Sender<Arc<Reading>>;

/// Where counting all namespaces takes no longer, a scrape counts them afresh.
const FRESH_LIMIT: Duration = Duration::from_millis(5);

pub(super) fn run(shared: &Shared, requests: &mpsc::Receiver<Request>) {
    let visitor = match Visitor::new() {
        Ok(visitor) => visitor,
        Err(error) => {
            error!(%error, "cannot open the agent's own network namespace, no scrape is answered");
            return;
        }
    };
    while let Ok(first) = requests.recv() {
        // Whoever asked before the reading begins shares it.
        let waiting: Vec<Request> = std::iter::once(first).chain(requests.try_iter()).collect();
        let reading = Arc::new(read(shared, &visitor));
        for request in waiting {
            // Who no longer waits needs no answer.
            let _ = request.send(Arc::clone(&reading));
        }
    }
}

fn read(shared: &Shared, visitor: &Visitor) -> Reading {
    let started = Instant::now();
    name_close_wait_if_cheap(shared, visitor);
    count_if_cheap(shared, visitor, started);
    look_for_strangers(shared);
    let by_namespace = namespace_readings(shared, visitor, started);
    // Before that a gauge would show a part as if it were all.
    let is_counted = shared.can_count() && shared.progress() >= Progress::Counted;
    let sockets = is_counted.then(|| {
        let mut sum = Census::default();
        for namespace in by_namespace.values() {
            sum += &namespace.sockets;
        }
        sum
    });
    Reading {
        close_wait: close_wait(shared, sockets.as_ref()),
        close_wait_durations: shared.flow().and_then(|flow| {
            flow.close_wait_durations()
                .inspect_err(|error| warn!(%error, "cannot read the durations"))
                .ok()
        }),
        sockets,
        by_namespace,
        transitions: shared.flow().and_then(|flow| {
            flow.transitions()
                .inspect_err(|error| warn!(%error, "cannot read the transition counters"))
                .ok()
        }),
        missed: shared.has_flow().then(|| shared.missed_transitions()),
        events: events(shared),
        snapshot: is_counted.then(|| snapshot_state(shared)),
        namespaces: namespace_results(shared),
        programs: shared.programs.clone(),
    }
}

/// What this finds out of sockets is as good as a snapshot of their namespaces.
fn name_close_wait_if_cheap(shared: &Shared, visitor: &Visitor) {
    let is_cheap = shared
        .last_close_wait()
        .is_some_and(|last| last.took <= FRESH_LIMIT);
    if is_cheap && !shared.with_close_wait().is_empty() {
        shared.name_close_wait(visitor, Walk::IfFree);
    }
}

fn count_if_cheap(shared: &Shared, visitor: &Visitor, started: Instant) {
    // The sum of what it took by experience; `None` where there is no experience.
    let counted: Option<Vec<(Namespace, Duration, bool)>> = shared
        .namespaces()
        .watched
        .values()
        .filter(|watched| watched.failure.is_none())
        .map(|watched| {
            let model = watched.model.as_ref()?;
            let is_fresh = model.counted_at() >= started;
            Some((watched.namespace.clone(), model.pass_took(), is_fresh))
        })
        .collect();
    let Some(counted) = counted else {
        return;
    };
    if counted.iter().map(|(_, took, _)| *took).sum::<Duration>() > FRESH_LIMIT {
        return;
    }
    for (namespace, _, is_fresh) in counted {
        if !is_fresh {
            shared.count(visitor, &namespace, Walk::IfFree, None);
        }
    }
}

/// A namespace that shows transitions before a search found it is looked for at once.
fn look_for_strangers(shared: &Shared) {
    let Some(strangers) = shared.flow().and_then(|flow| flow.strangers().ok()) else {
        return;
    };
    let is_new = {
        let namespaces = shared.namespaces();
        strangers.iter().any(|inode| {
            !namespaces.watched.contains_key(inode) && !namespaces.unreachable.contains(inode)
        })
    };
    if is_new {
        shared.ask_for_discovery();
    }
}

fn namespace_readings(
    shared: &Shared,
    visitor: &Visitor,
    started: Instant,
) -> BTreeMap<u32, NamespaceReading> {
    // Entering namespaces takes time: the lock is not held meanwhile.
    let models: Vec<_> = shared
        .namespaces()
        .watched
        .values()
        .filter_map(|watched| Some((watched.namespace.clone(), watched.model.clone()?)))
        .collect();
    let mut by_namespace = BTreeMap::new();
    for (namespace, model) in models {
        let live = shared.counters(namespace.inode);
        let is_fresh = model.counted_at() >= started;
        let minisockets = if is_fresh || !model.may_have_minisockets(&live) {
            None
        } else {
            match visitor.visit(&namespace, SockStat::read_minisockets) {
                Ok(Ok(minisockets)) => Some(minisockets),
                // Gone, and its minisockets with it; or no longer there by this way.
                Err(VisitError::Gone) => {
                    shared.ask_for_discovery();
                    Some(0)
                }
                Ok(Err(error)) | Err(VisitError::Denied(error) | VisitError::Failed(error)) => {
                    debug!(namespace = namespace.inode, %error, "cannot read sockstat");
                    None
                }
            }
        };
        let sockets = model.census(&live, minisockets);
        let reading = NamespaceReading {
            sockets,
            live,
            counted_at: model.counted_at(),
        };
        by_namespace.insert(namespace.inode, reading);
    }
    by_namespace
}

/// What was found out last, or nothing where no socket is in CLOSE_WAIT any more.
fn close_wait(shared: &Shared, sockets: Option<&Census>) -> Option<CloseWaitReading> {
    let is_empty = sockets?.in_state(TcpState::CloseWait) == 0;
    let last = shared.last_close_wait();
    let found = if is_empty && shared.tells_owners {
        Arc::new(CloseWait::nothing(last.as_ref(), Instant::now()))
    } else {
        last?
    };
    Some(CloseWaitReading {
        age: found.at.elapsed(),
        found,
        folded: shared.close_wait_folded(),
    })
}

fn events(shared: &Shared) -> Option<Events> {
    let ring = shared.events.as_ref()?;
    // The kernel's side first, then the ring is emptied: so nothing of what it counted is still
    // on the way. What comes in between is decoded and not yet in its count.
    let kernel = shared
        .flow()?
        .events()
        .inspect_err(|error| warn!(%error, "cannot read the event counters"))
        .ok()?;
    let mut ring = lock(ring);
    super::events::drain(shared, &mut ring);
    let read = ring.records_read();
    Some(Events {
        kernel,
        decoded: read.decoded,
        malformed: read.malformed,
    })
}

fn snapshot_state(shared: &Shared) -> SnapshotState {
    let now = Instant::now();
    let namespaces = shared.namespaces();
    let mut state = SnapshotState {
        uncertain: shared.has_flow().then_some(0),
        ..SnapshotState::default()
    };
    for (inode, watched) in &namespaces.watched {
        let Some(model) = &watched.model else {
            continue;
        };
        if let Some(uncertain) = &mut state.uncertain {
            *uncertain += model.uncertain(&shared.counters(*inode));
        }
        state.duration += model.pass_took();
        state.age = state
            .age
            .max(now.saturating_duration_since(model.counted_at()));
        state.unknown += model.unknown();
    }
    state
}

fn namespace_results(shared: &Shared) -> NamespaceResults {
    let namespaces = shared.namespaces();
    let mut results = NamespaceResults {
        denied: namespaces.hidden,
        ..NamespaceResults::default()
    };
    for watched in namespaces.watched.values() {
        match (&watched.model, watched.failure) {
            (Some(_), _) => results.counted += 1,
            (None, Some(failure)) if failure.denied => results.denied += 1,
            (None, _) => results.unreachable += 1,
        }
    }
    // The hidden ones have live counters too, under numbers that cannot be matched to them.
    let unreachable = u64::try_from(namespaces.unreachable.len()).unwrap_or(u64::MAX);
    results.unreachable += unreachable.saturating_sub(namespaces.hidden);
    results
}
