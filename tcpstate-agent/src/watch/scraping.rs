//! The scraping thread: one reading for every request.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tcpstate_common::TcpState;
use tracing::{debug, error, warn};

use super::{
    close_wait::CloseWait,
    count::Walk,
    kernel::Netstat,
    listeners::Queues,
    reading::{
        CloseWaitReading, Events, NamespaceReading, NamespaceResults, Reading, SnapshotState,
    },
    shared::{Progress, Shared, lock},
};
use crate::{
    bpf::{Counted, Resets},
    model::{Census, NamespaceModel},
    netns::{Limits, Namespace, SockStat, VisitError, Visitor},
    segments::Follower,
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
    let netstat = shared.netstat_at_scrape();
    name_close_wait_if_cheap(shared, visitor);
    count_if_cheap(shared, visitor, started, netstat);
    look_for_strangers(shared);
    let queues = shared.queues();
    let by_namespace = namespace_readings(shared, visitor, started, queues.as_ref(), netstat);
    // Before that a gauge would show a part as if it were all.
    let is_counted = shared.can_count() && shared.progress() >= Progress::Counted;
    let sockets = is_counted.then(|| {
        let mut sum = Census::default();
        for namespace in by_namespace.values() {
            sum += &namespace.sockets;
        }
        sum
    });
    // Together, so that they agree with each other.
    let counted = counted(shared);
    Reading {
        outgoing: is_counted.then(|| shared.outgoing_reading(&by_namespace)),
        orphans: SockStat::read_orphans()
            .inspect_err(|error| debug!(%error, "cannot read how many orphans there are"))
            .ok(),
        close_wait: close_wait(shared, sockets.as_ref()),
        durations: counted.map(|counted| counted.durations),
        closes: counted.map(|counted| counted.closes),
        resets: resets(shared),
        listeners: queues
            .filter(|_| is_counted)
            .and_then(|queues| shared.listeners_reading(&queues)),
        handshakes: counted.map(|counted| counted.handshakes),
        sockets,
        by_namespace,
        transitions: counted.map(|counted| counted.transitions),
        missed: shared.has_flow().then(|| shared.missed_transitions()),
        events: events(shared),
        snapshot: is_counted.then(|| snapshot_state(shared)),
        namespaces: namespace_results(shared),
        kernel_counters: *shared.namespaces().kernel.totals.totals(),
        limits: Limits::read(),
        segments: shared
            .segments
            .as_ref()
            .map(|interfaces| interfaces.read_with(Follower::read)),
        programs: shared.programs.clone(),
    }
}

/// What the flow engine has counted; `None` where it does not run.
fn counted(shared: &Shared) -> Option<Counted> {
    let counted = shared.flow()?.counted();
    counted
        .inspect_err(|error| warn!(%error, "cannot read the transition counters"))
        .ok()
}

fn resets(shared: &Shared) -> Option<Resets> {
    let resets = lock(shared.resets.as_ref()?).read();
    resets
        .inspect_err(|error| warn!(%error, "cannot read the resets"))
        .ok()
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

fn count_if_cheap(shared: &Shared, visitor: &Visitor, started: Instant, netstat: Netstat) {
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
            shared.count(visitor, &namespace, Walk::IfFree, netstat, None);
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

/// What is known of the namespaces, with what is fresh and cheap. Where there is time for
/// `netstat`, the kernel's own counters are read too.
fn namespace_readings(
    shared: &Shared,
    visitor: &Visitor,
    started: Instant,
    queues: Option<&Queues>,
    netstat: Netstat,
) -> BTreeMap<u32, NamespaceReading> {
    let missed = shared.missed_transitions();
    let half_open = queues.map(Queues::all_half_open);
    let mut by_namespace = BTreeMap::new();
    for Due {
        namespace,
        model,
        is_read,
    } in due(shared, started)
    {
        let begun = Instant::now();
        let live = shared.counters(namespace.inode);
        let counts_minisockets = model
            .as_ref()
            .is_some_and(|model| model.counted_at() < started && model.may_have_minisockets(&live));
        let reads_counters = !is_read && netstat == Netstat::IfNeeded;
        let minisockets = if counts_minisockets || reads_counters {
            look_again(shared, visitor, &namespace, || {
                let minisockets = counts_minisockets.then(SockStat::read_minisockets);
                if reads_counters {
                    shared.read_kernel_counters_afresh(namespace.inode, begun, &live, missed);
                }
                minisockets.transpose()
            })
            .filter(|_| counts_minisockets)
        } else {
            None
        };
        if let Some(model) = model {
            let sockets = match &half_open {
                // A snapshot that this scrape has taken knows those too that have no listener.
                Some(half_open) if model.counted_at() < started => {
                    let half_open = half_open.get(&namespace.inode).copied();
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
            by_namespace.insert(namespace.inode, reading);
        }
    }
    by_namespace
}

/// A namespace that a scrape may have to look into once more.
struct Due {
    namespace: Namespace,
    model: Option<NamespaceModel>,
    /// The kernel's counters have been read since the scrape began.
    is_read: bool,
}

/// Entering namespaces takes time: the lock is not held meanwhile.
fn due(shared: &Shared, started: Instant) -> Vec<Due> {
    let namespaces = shared.namespaces();
    let can_be_entered = namespaces
        .watched
        .values()
        .filter(|watched| watched.failure.is_none());
    can_be_entered
        .map(|watched| {
            let inode = watched.namespace.inode;
            Due {
                namespace: watched.namespace.clone(),
                model: watched.model.clone(),
                is_read: namespaces.kernel.totals.is_read_since(inode, started),
            }
        })
        .collect()
}

/// Does `work` in a namespace. Where it gives nothing, the minisockets are not known; in one that
/// is gone there are none.
fn look_again(
    shared: &Shared,
    visitor: &Visitor,
    namespace: &Namespace,
    work: impl FnOnce() -> io::Result<Option<u64>>,
) -> Option<u64> {
    match visitor.visit(namespace, work) {
        Ok(Ok(minisockets)) => minisockets,
        // Gone, and its minisockets with it; or no longer there by this way.
        Err(VisitError::Gone) => {
            shared.ask_for_discovery();
            Some(0)
        }
        Ok(Err(error)) | Err(VisitError::Denied(error) | VisitError::Failed(error)) => {
            let namespace = namespace.inode;
            debug!(namespace, %error, "cannot read what the kernel counts in a namespace");
            None
        }
    }
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
