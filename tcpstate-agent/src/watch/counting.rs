//! The counting thread: searches for namespaces and takes snapshots of them in turn, within its
//! budget.

use std::time::{Duration, Instant};

use tcpstate_common::TcpState;
use tracing::error;

use super::{
    charge::charge,
    count::Walk,
    kernel::Netstat,
    search::Search,
    shared::{Progress, Shared, Woken},
};
use crate::{
    model::budget::{Budget, Candidate, LastPass, oldest_due, turns},
    netns::{Namespace, Visitor},
};

/// Which part of the budget the search for namespaces gets at most.
const SEARCH_PART: f64 = 1.0 / 16.0;
/// Which part the looks get at most whether snapshots still hold.
const GLANCE_PART: f64 = 1.0 / 16.0;
/// How often to look at a namespace whose turn to be counted has not come, and how often this is
/// doubled at most where the last snapshot does not hold: segments come there.
const GLANCE_EVERY: Duration = Duration::from_secs(3);
const DOUBLED: u32 = 5;
/// How long to count before looking at what has changed meanwhile.
const LONGEST_TURNS: Duration = Duration::from_secs(1);
/// How long to sleep at least when no namespace is due, or when the budget allows nothing more.
const IDLE: Duration = Duration::from_millis(500);
/// And where there are many namespaces, so that to find out which are due costs no more than one
/// part in so many of the budget: with hundreds it takes milliseconds.
const STANDING_PARTS: u32 = 2;
/// How old it is at least what is known of owners when they are looked for again.
const OWNERS_DUE: Duration = Duration::from_secs(5);
/// The walks for the owners of listening sockets that are made now and then, though none is new,
/// cost no more than one part in so many of the budget: at a million descriptors such a walk takes
/// as long as a snapshot, and hardly ever finds anything.
const LISTENER_OWNERS_PARTS: u32 = 8;

pub(super) fn run(shared: &Shared, cpu_percent: f64) {
    let visitor = match Visitor::new() {
        Ok(visitor) => visitor,
        Err(error) => {
            error!(%error, "cannot open the agent's own network namespace, nothing is counted");
            return;
        }
    };
    // All is paid from it. What two parts go to does not wait for it, but has a limit of its own.
    let mut budget = Budget::new(cpu_percent, Instant::now());
    let mut glances = Budget::new(cpu_percent * GLANCE_PART, Instant::now());
    let mut search = Search::new(cpu_percent * SEARCH_PART);
    let mut listener_owners_every = Duration::ZERO;
    loop {
        let mut until_search = Duration::ZERO;
        charge(&mut budget, || until_search = search.step(shared));
        let mut standing = Standing::default();
        let cost = charge(&mut budget, || standing = Standing::of(shared));
        let idle = IDLE.max(budget.earned_in(cost) * STANDING_PARTS);
        let Standing {
            candidates,
            has_close_wait,
        } = standing;
        if search.is_starting && search.is_complete {
            shared.note_listeners();
        }
        if shared.note_progress(search.is_complete) == Progress::Ready && search.is_starting {
            search.is_starting = false;
            // What the start has cost is not taken from what comes after.
            budget = Budget::new(cpu_percent, Instant::now());
        }
        let oldest = oldest_due(&candidates);
        if has_close_wait && owners_are_due(shared, &mut budget, oldest) {
            charge(&mut budget, || {
                shared.name_close_wait(&visitor, Walk::Waits);
            });
        }
        if shared.progress() >= Progress::Counted
            && shared.listener_owners_are_due(listener_owners_every, oldest)
            && budget.wait(Instant::now()).is_zero()
        {
            let cost = charge(&mut budget, || shared.find_listener_owners());
            listener_owners_every = budget.earned_in(cost) * LISTENER_OWNERS_PARTS;
        }
        let turns = turns(candidates);
        let until_count = match take_turns(shared, &visitor, &mut budget, &turns) {
            Taken::All => idle,
            Taken::Enough => Duration::ZERO,
            Taken::Until(left) => {
                charge(&mut budget, || {
                    glance(shared, &visitor, &mut glances, left);
                });
                idle
            }
        };
        match shared.wait(until_search.min(until_count)) {
            Woken::Stop => return,
            Woken::Discover => search.hurry(),
            Woken::TimeOut => {}
        }
    }
}

/// Whether to find out now who keeps sockets in CLOSE_WAIT: as far as the budget goes, in turn with
/// the snapshots, of which the `oldest` that is due has this age.
fn owners_are_due(shared: &Shared, budget: &mut Budget, oldest: Option<Duration>) -> bool {
    if !shared.tells_owners || shared.progress() < Progress::Counted {
        return false;
    }
    match shared.last_close_wait() {
        // The first time is not put off: until then there is nothing to show.
        None => true,
        Some(last) => {
            let age = last.at.elapsed();
            age >= OWNERS_DUE
                && oldest.is_none_or(|oldest| oldest <= age)
                && budget.wait(Instant::now()).is_zero()
        }
    }
}

/// How many turns were taken.
enum Taken<'a> {
    /// All of them.
    All,
    /// As many as there is time for before the search has its turn again.
    Enough,
    /// All until these, for which there is nothing left of the budget.
    Until(&'a [Candidate]),
}

/// Counts one namespace after the other, as far as the budget goes, and for no longer than the
/// search can wait.
fn take_turns<'a>(
    shared: &Shared,
    visitor: &Visitor,
    budget: &mut Budget,
    turns: &'a [Candidate],
) -> Taken<'a> {
    let started = Instant::now();
    for (turn, candidate) in turns.iter().enumerate() {
        // A first snapshot is never put off: without it the namespace is in no gauge.
        if candidate.last.is_some() && !budget.wait(Instant::now()).is_zero() {
            return Taken::Until(&turns[turn..]);
        }
        if started.elapsed() >= LONGEST_TURNS || shared.is_stopped() {
            return Taken::Enough;
        }
        if let Some(namespace) = namespace(shared, candidate.inode) {
            charge(budget, || {
                shared.count(visitor, &namespace, Walk::Waits, Netstat::IfNeeded, None);
            });
        }
    }
    Taken::All
}

/// Looks at those of the namespaces in which nothing seems to have moved, whether the last
/// snapshot still holds: that takes microseconds, and where it does, it is as good as a new one.
/// A walk elsewhere that took a second is no reason to let them grow old.
fn glance(shared: &Shared, visitor: &Visitor, budget: &mut Budget, left: &[Candidate]) {
    let quiet = left
        .iter()
        .filter(|candidate| candidate.last.is_some_and(|last| !last.changed));
    for candidate in quiet {
        let now = Instant::now();
        if !budget.wait(now).is_zero() || shared.is_stopped() {
            return;
        }
        let Some(namespace) = due_for_glance(shared, candidate.inode, now) else {
            continue;
        };
        charge(budget, || {
            shared.count(visitor, &namespace, Walk::Never, Netstat::IfNeeded, None);
        });
        if let Some(watched) = shared.namespaces().watched.get_mut(&candidate.inode) {
            let model = watched.model.as_ref();
            let holds = model.is_some_and(|model| model.counted_at() >= now);
            let (_, in_vain) = watched.glanced;
            let in_vain = if holds { 0 } else { (in_vain + 1).min(DOUBLED) };
            watched.glanced = (Some(now), in_vain);
        }
    }
}

fn due_for_glance(shared: &Shared, inode: u32, now: Instant) -> Option<Namespace> {
    let namespaces = shared.namespaces();
    let watched = namespaces.watched.get(&inode)?;
    let (at, in_vain) = watched.glanced;
    let pause = GLANCE_EVERY * (1 << in_vain);
    at.is_none_or(|at| now.saturating_duration_since(at) >= pause)
        .then(|| watched.namespace.clone())
}

fn namespace(shared: &Shared, inode: u32) -> Option<Namespace> {
    let namespaces = shared.namespaces();
    let watched = namespaces.watched.get(&inode)?;
    Some(watched.namespace.clone())
}

/// How things stand with the namespaces.
#[derive(Default)]
struct Standing {
    /// Those that can be counted.
    candidates: Vec<Candidate>,
    /// By what is known, one of them has sockets in CLOSE_WAIT.
    has_close_wait: bool,
}

impl Standing {
    fn of(shared: &Shared) -> Self {
        let now = Instant::now();
        let namespaces = shared.namespaces();
        let can_be_tried = namespaces.watched.values().filter(|watched| {
            !watched.is_gone && watched.failure.is_none_or(|failure| failure.is_over(now))
        });
        let mut has_close_wait = false;
        let candidates = can_be_tried.map(|watched| {
            let inode = watched.namespace.inode;
            // Scrapes can keep a snapshot young and leave the kernel's own counters alone.
            let read = namespaces.kernel.totals.last_read(inode);
            let age =
                |last| now.saturating_duration_since(read.map_or(last, |read| read.min(last)));
            let last = if shared.can_count() {
                watched.model.as_ref().map(|model| {
                    let counters = shared.counters(inode);
                    let census = model.census(&counters, None);
                    has_close_wait |= census.in_state(TcpState::CloseWait) > 0;
                    LastPass {
                        age: age(model.counted_at()),
                        changed: model.half_open() > 0 || model.has_changed(&counters),
                        uncertain: model.was_disturbed(&counters),
                    }
                })
            } else {
                read.map(|read| LastPass {
                    age: age(read),
                    changed: false,
                    uncertain: false,
                })
            };
            Candidate { inode, last }
        });
        Self {
            candidates: candidates.collect(),
            has_close_wait,
        }
    }
}
