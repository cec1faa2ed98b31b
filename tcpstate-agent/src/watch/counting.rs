//! The counting thread: searches for namespaces and takes snapshots of them in turn, within its
//! budget.

use std::time::{Duration, Instant};

use tracing::error;

use super::{
    charge::charge,
    search::Search,
    shared::{Failure, Progress, Shared, Watched, Woken},
};
use crate::{
    model::budget::{self, Budget, Candidate, LastPass},
    netns::Visitor,
};

/// Which part of the budget the search for namespaces gets.
const SEARCH_PART: f64 = 1.0 / 16.0;
/// How long to sleep when no namespace is due.
const IDLE: Duration = Duration::from_millis(500);
/// How long to leave a namespace alone that could not be counted.
const RETRY: Duration = Duration::from_secs(30);

pub(super) fn run(shared: &Shared, cpu_percent: f64) {
    let visitor = match Visitor::new() {
        Ok(visitor) => visitor,
        Err(error) => {
            error!(%error, "cannot open the agent's own network namespace, nothing is counted");
            return;
        }
    };
    let for_search = cpu_percent * SEARCH_PART;
    let mut budget = Budget::new(cpu_percent - for_search, Instant::now());
    let mut search = Search::new(for_search);
    loop {
        let until_search = search.step(shared);
        let candidates = candidates(shared);
        if candidates.iter().all(|candidate| candidate.last.is_some()) {
            if !candidates.is_empty() {
                shared.reach(Progress::Counted);
            }
            if search.is_starting && search.is_complete {
                search.is_starting = false;
                shared.reach(Progress::Ready);
                // What the start has cost is not taken from what comes after.
                budget = Budget::new(cpu_percent - for_search, Instant::now());
            }
        }

        let until_count = match budget::next(&candidates) {
            // A first snapshot is never put off: without it the namespace is in no gauge.
            Some(next) if next.is_first || budget.affords(next.cost, Instant::now()) => {
                let namespace = shared
                    .namespaces()
                    .watched
                    .get(&next.inode)
                    .map(Watched::route);
                if let Some(namespace) = namespace {
                    charge(&mut budget, || shared.count(&visitor, &namespace));
                }
                Duration::ZERO
            }
            Some(next) => budget.wait_for(next.cost, Instant::now()),
            None => IDLE,
        };
        match shared.wait(until_search.min(until_count)) {
            Woken::Stop => return,
            Woken::Discover => search.hurry(),
            Woken::TimeOut => {}
        }
    }
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
