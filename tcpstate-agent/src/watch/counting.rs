//! The counting thread: searches for namespaces and takes snapshots of them in turn, within its
//! budget.

use std::time::{Duration, Instant};

use tracing::error;

use super::{
    charge::charge,
    count::Walk,
    search::Search,
    shared::{Failure, Progress, Shared, Woken},
};
use crate::{
    model::budget::{Budget, Candidate, LastPass, turns},
    netns::Visitor,
};

/// Which part of the budget the search for namespaces gets.
const SEARCH_PART: f64 = 1.0 / 16.0;
/// How long to count before looking at what has changed meanwhile.
const LONGEST_TURNS: Duration = Duration::from_secs(1);
/// How long to sleep when no namespace is due.
const IDLE: Duration = Duration::from_millis(500);
/// How old it is at least what is known of owners when they are looked for again.
const OWNERS_DUE: Duration = Duration::from_secs(5);
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
        let mut candidates = Vec::new();
        charge(&mut budget, || candidates = self::candidates(shared));
        if shared.note_progress(search.is_complete) == Progress::Ready && search.is_starting {
            search.is_starting = false;
            // What the start has cost is not taken from what comes after.
            budget = Budget::new(cpu_percent - for_search, Instant::now());
        }
        if owners_are_due(shared, &mut budget, &candidates) {
            charge(&mut budget, || {
                shared.name_close_wait(&visitor, Walk::Waits);
            });
        }
        let until_count = take_turns(shared, &visitor, &mut budget, turns(candidates));
        match shared.wait(until_search.min(until_count)) {
            Woken::Stop => return,
            Woken::Discover => search.hurry(),
            Woken::TimeOut => {}
        }
    }
}

/// Whether to find out now who keeps sockets in CLOSE_WAIT: where there are some, as far as the
/// budget goes, in turn with the snapshots.
fn owners_are_due(shared: &Shared, budget: &mut Budget, candidates: &[Candidate]) -> bool {
    if !shared.tells_owners || shared.progress() < Progress::Counted {
        return false;
    }
    let is_turn = match shared.last_close_wait() {
        // The first time is not put off: until then there is nothing to show.
        None => true,
        Some(last) => {
            let age = last.at.elapsed();
            let oldest = candidates
                .iter()
                .filter_map(|candidate| candidate.last.map(|last| last.age))
                .max();
            age >= OWNERS_DUE
                && oldest.is_none_or(|oldest| oldest <= age)
                && budget.wait(Instant::now()).is_zero()
        }
    };
    is_turn && !shared.with_close_wait().is_empty()
}

/// Counts one namespace after the other, as far as the budget goes, and for no longer than the
/// search can wait. Returns how long nothing is to be counted.
fn take_turns(
    shared: &Shared,
    visitor: &Visitor,
    budget: &mut Budget,
    turns: Vec<Candidate>,
) -> Duration {
    let started = Instant::now();
    for candidate in turns {
        // A first snapshot is never put off: without it the namespace is in no gauge.
        if candidate.last.is_some() {
            let wait = budget.wait(Instant::now());
            if !wait.is_zero() {
                return wait;
            }
        }
        if started.elapsed() >= LONGEST_TURNS || shared.is_stopped() {
            return Duration::ZERO;
        }
        let namespace = shared
            .namespaces()
            .watched
            .get(&candidate.inode)
            .map(|watched| watched.namespace.clone());
        if let Some(namespace) = namespace {
            charge(budget, || {
                shared.count(visitor, &namespace, Walk::Waits, None);
            });
        }
    }
    IDLE
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
                    changed: model.half_open() > 0 || model.has_changed(&counters),
                    uncertain: model.was_disturbed(&counters),
                }
            });
            Candidate { inode, last }
        })
        .collect()
}
