//! When to search for namespaces, and for how long at a time.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{charge::charge, learn::learn, shared::Shared};
use crate::{
    model::{Origin, budget::Budget},
    netns::Discovery,
};

/// How often processes are looked through for new namespaces.
const LOOK: Duration = Duration::from_secs(5);
/// And with thousands of processes, where a look costs more.
const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// How soon again when a namespace shows up in the live counters.
const ASKED_LOOK: Duration = Duration::from_secs(1);
/// How often mounts and descriptors are looked through, at most.
const ROUND: Duration = Duration::from_mins(1);
/// For how long to look at descriptors before anything else gets its turn.
const SLICE: Duration = Duration::from_millis(10);

/// The search for namespaces: a quick look every few seconds, and rounds over everything that
/// can lead to one.
pub(super) struct Search {
    discovery: Discovery,
    percent: f64,
    budget: Budget,
    looked_at: Instant,
    look_due: Instant,
    round_due: Instant,
    /// What the round that is under way has cost so far.
    round: Option<Duration>,
    /// Nothing is put off for what it costs.
    pub(super) is_starting: bool,
    /// Everything has been looked at once.
    pub(super) is_complete: bool,
}

impl Search {
    /// A search that uses `percent` of one core.
    pub(super) fn new(percent: f64) -> Self {
        let now = Instant::now();
        Self {
            discovery: Discovery::default(),
            percent,
            budget: Budget::new(percent, now),
            looked_at: now,
            look_due: now,
            round_due: now,
            round: None,
            is_starting: true,
            is_complete: false,
        }
    }

    /// Does what is due. Returns how long nothing will be.
    pub(super) fn step(&mut self, shared: &Shared) -> Duration {
        let now = Instant::now();
        if now >= self.look_due {
            self.look(shared);
            // Those that were found are counted before the round begins or goes on.
            return Duration::ZERO;
        }
        let Some(cost) = self.round else {
            if now >= self.round_due {
                self.begin_round();
                return Duration::ZERO;
            }
            return self.look_due.min(self.round_due) - now;
        };
        let wait = self.budget.wait(now);
        if !self.is_starting && !wait.is_zero() {
            return wait.min(self.look_due.saturating_duration_since(now));
        }
        let mut is_over = false;
        let discovery = &mut self.discovery;
        let slice = charge(&mut self.budget, || {
            is_over = discovery.continue_round(SLICE);
        });
        self.round = Some(cost + slice);
        if is_over {
            // What the first round found was there before.
            self.look(shared);
            self.end_round(cost + slice);
        }
        Duration::ZERO
    }

    fn begin_round(&mut self) {
        let discovery = &mut self.discovery;
        let cost = charge(&mut self.budget, || {
            if let Err(error) = discovery.begin_round() {
                warn!(%error, "cannot look for network namespaces in /proc");
            }
        });
        self.round = Some(cost);
    }

    fn end_round(&mut self, cost: Duration) {
        self.round = None;
        self.round_due = Instant::now() + self.spread(cost).max(ROUND);
        self.is_complete = true;
    }

    /// Over how long to spread a `cost`, so that half of the budget is left for the rest.
    fn spread(&self, cost: Duration) -> Duration {
        let share = self.percent / 100.0 / 2.0;
        Duration::try_from_secs_f64(cost.as_secs_f64() / share).unwrap_or(ROUND)
    }

    fn look(&mut self, shared: &Shared) {
        self.looked_at = Instant::now();
        let origin = if self.is_complete {
            Origin::SinceAgent
        } else {
            Origin::BeforeAgent
        };
        let discovery = &mut self.discovery;
        let cost = charge(&mut self.budget, || match discovery.look() {
            Ok(found) => learn(shared, found, origin),
            Err(error) => warn!(%error, "cannot look for network namespaces in /proc"),
        });
        self.look_due = self.looked_at + self.spread(cost).clamp(LOOK, LONGEST_LOOK);
    }

    /// Somewhere there is a namespace that has not been found.
    pub(super) fn hurry(&mut self) {
        let soon = self.looked_at + ASKED_LOOK;
        self.look_due = self.look_due.min(soon);
        // Rounds cost more, so only where there is no debt.
        if self.budget.wait(Instant::now()).is_zero() {
            self.round_due = self.round_due.min(soon);
        }
    }
}
