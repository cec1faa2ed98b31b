//! The counting thread: finds namespaces and takes snapshots of them, within its budget.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tracing::{error, warn};

use super::shared::{Failure, Namespaces, Shared, Watched, Woken};
use crate::{
    bpf::Flow,
    model::budget::{self, Budget, Candidate, LastPass},
    netns::{Discovery, Found, Visitor},
};

/// How often processes are looked through for new namespaces.
const QUICK_DISCOVERY: Duration = Duration::from_secs(5);
/// How often mounts and descriptors are, at most.
const FULL_DISCOVERY: Duration = Duration::from_mins(1);
/// How often a search is made for namespaces that showed up in the live counters.
const ASKED_DISCOVERY: Duration = Duration::from_secs(1);
/// How long to sleep when no namespace is due.
const IDLE: Duration = Duration::from_millis(500);
/// How long to leave a namespace alone that could not be counted.
const RETRY: Duration = Duration::from_secs(30);
/// Searches in a row without finding a namespace after which it is taken for gone. A process
/// that forks and exits while `/proc` is read can be missed once.
const MISSES: u8 = 2;

pub(super) fn run(shared: &Shared, cpu_percent: f64) {
    let visitor = match Visitor::new() {
        Ok(visitor) => visitor,
        Err(error) => {
            error!(%error, "cannot open the agent's own network namespace, nothing is counted");
            return;
        }
    };
    let mut discovery = Discovery::default();
    let mut budget = Budget::new(cpu_percent, Instant::now());
    let mut searched_at = Instant::now();
    let mut quick_due = searched_at;
    let mut full_due = searched_at;
    let mut full_cost = Duration::ZERO;
    let mut is_complete = false;
    loop {
        if Instant::now() >= quick_due {
            searched_at = Instant::now();
            let is_full = searched_at >= full_due;
            let cost = spend(&mut budget, || search(shared, &mut discovery, is_full));
            quick_due = searched_at + QUICK_DISCOVERY;
            if is_full {
                // At a million descriptors a search takes seconds: then it is made less often.
                full_due = searched_at + FULL_DISCOVERY.max(spread(cost, cpu_percent));
                full_cost = cost;
                is_complete = true;
            }
        }

        let candidates = candidates(shared);
        let is_waiting = |inode| {
            candidates
                .iter()
                .any(|candidate| candidate.inode == inode && candidate.last.is_none())
        };
        let mut pause = quick_due.saturating_duration_since(Instant::now());
        match budget::next(&candidates) {
            // A first snapshot is never put off: without it the namespace is in no gauge.
            Some((inode, cost)) if is_waiting(inode) || budget.affords(cost, Instant::now()) => {
                let watched = shared.namespaces().watched.get(&inode).map(Watched::route);
                if let Some(namespace) = watched {
                    spend(&mut budget, || shared.count(&visitor, &namespace));
                }
                pause = Duration::ZERO;
            }
            Some((_, cost)) => pause = pause.min(budget.wait_for(cost, Instant::now())),
            None => pause = pause.min(IDLE),
        }
        if is_complete && candidates.iter().all(|candidate| candidate.last.is_some()) {
            shared.set_ready();
        }

        match shared.wait(pause) {
            Woken::Stop => return,
            Woken::Discover => {
                quick_due = quick_due.min(searched_at + ASKED_DISCOVERY);
                if budget.affords(full_cost, Instant::now()) {
                    full_due = full_due.min(quick_due);
                }
            }
            Woken::TimeOut => {}
        }
    }
}

/// Does `work` and charges the CPU time that it took.
fn spend(budget: &mut Budget, work: impl FnOnce()) -> Duration {
    let started = thread_cpu_time();
    work();
    let cost = thread_cpu_time().saturating_sub(started);
    budget.spend(cost, Instant::now());
    cost
}

fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Over how long a `cost` must be spread to stay within half of the budget.
fn spread(cost: Duration, cpu_percent: f64) -> Duration {
    Duration::try_from_secs_f64(cost.as_secs_f64() * 200.0 / cpu_percent).unwrap_or(FULL_DISCOVERY)
}

fn candidates(shared: &Shared) -> Vec<Candidate> {
    if !shared.can_count() {
        return Vec::new();
    }
    let now = Instant::now();
    shared
        .namespaces()
        .watched
        .values()
        .filter(|watched| {
            watched
                .failure
                .is_none_or(|Failure { at, .. }| now.saturating_duration_since(at) >= RETRY)
        })
        .map(|watched| {
            let inode = watched.namespace.inode;
            let last = watched.model.as_ref().map(|model| {
                let counters = shared.counters(inode);
                LastPass {
                    age: now.saturating_duration_since(model.counted_at()),
                    took: model.pass_took(),
                    changed: model.half_open() > 0 || model.has_changed(&counters),
                    uncertain: model.was_disturbed(&counters),
                }
            });
            Candidate { inode, last }
        })
        .collect()
}

fn search(shared: &Shared, discovery: &mut Discovery, is_full: bool) {
    let found = if is_full {
        discovery.full()
    } else {
        discovery.quick()
    };
    match found {
        Ok(found) => learn(shared, found),
        Err(error) => warn!(%error, "cannot look for network namespaces in /proc"),
    }
}

fn learn(shared: &Shared, found: Found) {
    let mut namespaces = shared.namespaces();
    let Namespaces {
        watched,
        hidden,
        unreachable,
    } = &mut *namespaces;
    note_hidden(hidden, &found, watched);
    let mut gone = Vec::new();
    watched.retain(|inode, watched| {
        watched.missed = if found.namespaces.contains_key(inode) {
            0
        } else {
            watched.missed + 1
        };
        let stays = watched.missed < MISSES;
        if !stays {
            gone.push(*inode);
        }
        stays
    });
    let new = new_ones(watched, found);
    // Live counters come before the first snapshot, which this lock puts off.
    if let Some(mut flow) = shared.flow() {
        watched.extend(new);
        *unreachable = tell_kernel_side(&mut flow, &gone, watched);
    } else {
        watched.extend(new);
    }
}

fn note_hidden(hidden: &mut u64, found: &Found, watched: &BTreeMap<u32, Watched>) {
    // One that is reached by another way, through a mount for instance, is not hidden.
    let entered: BTreeSet<u64> = watched
        .values()
        .filter_map(|watched| watched.mark)
        .collect();
    let mut still = found
        .hidden
        .iter()
        .filter(|hidden| !entered.contains(&hidden.mark))
        .peekable();
    let process = still.peek().map(|hidden| hidden.process.display());
    let now = u64::try_from(still.count()).unwrap_or(u64::MAX);
    if now > *hidden {
        warn!(
            namespaces = now,
            process = process.map(tracing::field::display),
            "cannot look into the network namespaces of other processes, they are in no gauge \
             (grant CAP_SYS_PTRACE)"
        );
    }
    *hidden = now;
}

/// Makes and removes live counters. Returns the namespaces that show transitions and were not
/// found.
fn tell_kernel_side(
    flow: &mut Flow,
    gone: &[u32],
    watched: &mut BTreeMap<u32, Watched>,
) -> BTreeSet<u32> {
    for &inode in gone {
        if let Err(error) = flow.remove_namespace(inode) {
            warn!(%error, namespace = inode, "cannot remove the live counters of a namespace");
        }
    }
    for (&inode, watched) in &mut *watched {
        // Tried again each time, because room may have come; said once.
        if let Err(error) = flow.add_namespace(inode)
            && !std::mem::replace(&mut watched.is_without_counters, true)
        {
            warn!(%error, namespace = inode, "a namespace moves with snapshots only");
        }
    }
    let strangers = flow.strangers().unwrap_or_default();
    for &inode in &strangers {
        // Only those that still show transitions at the next search stay.
        if let Err(error) = flow.forget_stranger(inode) {
            warn!(%error, namespace = inode, "cannot forget a namespace");
        }
    }
    strangers
        .into_iter()
        .filter(|inode| !watched.contains_key(inode))
        .collect()
}

/// Refreshes the routes to the namespaces that are watched, and returns those that are not yet.
fn new_ones(watched: &mut BTreeMap<u32, Watched>, found: Found) -> Vec<(u32, Watched)> {
    let mut new = Vec::new();
    for (inode, namespace) in found.namespaces {
        match watched.get_mut(&inode) {
            Some(watched) => watched.namespace = namespace,
            None => new.push((inode, Watched::new(namespace))),
        }
    }
    new
}
