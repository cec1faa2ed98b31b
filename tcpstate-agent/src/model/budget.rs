//! When to count, and which namespace first: never more than a share of one core.

use std::time::{Duration, Instant};

/// For how long CPU time can be saved up. Short against the minute over which the share of a core
/// is to be kept, and long against a snapshot on all but the largest hosts.
const SAVED: Duration = Duration::from_secs(10);

/// CPU time that snapshots may still use.
///
/// It fills up at the given share of one core, up to what that is in ten seconds. Spending is
/// never refused, only `affords` answers no until the debt is paid off.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    share: f64,
    seconds: f64,
    filled_at: Instant,
}

impl Budget {
    /// A full budget of `percent` of one core.
    #[must_use]
    pub fn new(percent: f64, now: Instant) -> Self {
        let share = percent / 100.0;
        Self {
            share,
            seconds: share * SAVED.as_secs_f64(),
            filled_at: now,
        }
    }

    /// Whether something that takes `cost` may be done now.
    pub fn affords(&mut self, cost: Duration, now: Instant) -> bool {
        self.fill(now);
        // What costs more than a full budget may be done when the budget is full.
        self.seconds >= cost.as_secs_f64().min(self.limit())
    }

    /// How long until `cost` is affordable, if nothing else is spent.
    #[must_use]
    pub fn wait_for(&mut self, cost: Duration, now: Instant) -> Duration {
        self.fill(now);
        let missing = cost.as_secs_f64().min(self.limit()) - self.seconds;
        Duration::try_from_secs_f64(missing / self.share).unwrap_or(Duration::ZERO)
    }

    /// Takes note that `cost` was spent.
    pub fn spend(&mut self, cost: Duration, now: Instant) {
        self.fill(now);
        self.seconds -= cost.as_secs_f64();
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.seconds = (self.seconds + passed * self.share).min(self.limit());
        self.filled_at = now;
    }

    fn limit(&self) -> f64 {
        self.share * SAVED.as_secs_f64()
    }
}

/// A namespace that waits for its next snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Inode number.
    pub inode: u32,
    /// Since when, and how long the last one took. `None`: it was never counted.
    pub last: Option<LastPass>,
}

/// What is known of a namespace's last snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPass {
    /// How long ago it ended.
    pub age: Duration,
    /// How long it took.
    pub took: Duration,
    /// Something moved since, or there is something that moves unseen.
    pub changed: bool,
    /// It was so disturbed that the next one should follow at once.
    pub uncertain: bool,
}

/// No namespace is counted more often in the background.
const SHORTEST_AGE: Duration = Duration::from_secs(1);
/// How much longer a quiet namespace waits than a busy one.
const QUIET_WAITS: u32 = 4;

/// The namespace to count next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Inode number.
    pub inode: u32,
    /// It was never counted.
    pub is_first: bool,
    /// What it will cost, by experience.
    pub cost: Duration,
}

/// Which of `candidates` to count next.
///
/// One that was never counted comes first, then one whose snapshot was disturbed, then the
/// oldest, where those in which something moved age faster. `None`: none is due.
#[must_use]
pub fn next(candidates: &[Candidate]) -> Option<Next> {
    candidates
        .iter()
        .filter(|candidate| {
            candidate
                .last
                .is_none_or(|last| last.uncertain || last.age >= SHORTEST_AGE)
        })
        .max_by_key(|candidate| urgency(candidate))
        .map(|candidate| Next {
            inode: candidate.inode,
            is_first: candidate.last.is_none(),
            cost: candidate.last.map_or(Duration::ZERO, |last| last.took),
        })
}

/// Compared field by field: never counted, disturbed, weighted age.
fn urgency(candidate: &Candidate) -> (bool, bool, Duration) {
    match candidate.last {
        None => (true, false, Duration::ZERO),
        Some(last) => {
            let weight = if last.changed { QUIET_WAITS } else { 1 };
            (false, last.uncertain, last.age * weight)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn over_a_minute_little_more_than_the_share_is_spent() {
        let start = Instant::now();
        let mut budget = Budget::new(2.0, start);
        let mut spent = 0.0;
        for tenth in 0..600 {
            let now = start + seconds(0.1) * tenth;
            if budget.affords(seconds(0.05), now) {
                budget.spend(seconds(0.05), now);
                spent += 0.05;
            }
        }
        // What was saved up, and a minute's share.
        assert!((1.3..=1.4).contains(&spent), "{spent}");
    }

    #[test]
    fn what_costs_more_than_can_be_saved_waits_until_its_cost_is_paid_off() {
        let start = Instant::now();
        let mut budget = Budget::new(2.0, start);
        assert!(budget.affords(seconds(5.0), start));
        budget.spend(seconds(5.0), start);
        assert!(!budget.affords(seconds(5.0), start + seconds(249.0)));
        assert!(budget.affords(seconds(5.0), start + seconds(251.0)));
    }

    #[test]
    fn the_wait_is_as_long_as_the_budget_takes_to_fill() {
        let start = Instant::now();
        let mut budget = Budget::new(2.0, start);
        assert_eq!(budget.wait_for(seconds(0.1), start), Duration::ZERO);
        budget.spend(seconds(0.2), start);
        let wait = budget.wait_for(seconds(0.02), start);
        assert!((wait.as_secs_f64() - 1.0).abs() < 1e-6, "{wait:?}");
    }

    fn counted(inode: u32, age: f64, changed: bool, uncertain: bool) -> Candidate {
        Candidate {
            inode,
            last: Some(LastPass {
                age: seconds(age),
                took: seconds(0.002),
                changed,
                uncertain,
            }),
        }
    }

    const NEVER: Candidate = Candidate {
        inode: 1,
        last: None,
    };

    #[test]
    fn the_order_is_never_counted_then_disturbed_then_busy_then_old() {
        let old = counted(2, 20.0, false, false);
        let busy = counted(3, 10.0, true, false);
        let disturbed = counted(4, 0.1, true, true);
        let mut waiting = vec![old, busy, disturbed, NEVER];
        let mut order = Vec::new();
        while let Some(next) = next(&waiting) {
            order.push(next.inode);
            assert_eq!(next.is_first, next.inode == NEVER.inode);
            waiting.retain(|candidate| candidate.inode != next.inode);
        }
        assert_eq!(order, [1, 4, 3, 2]);
    }

    #[test]
    fn a_quiet_namespace_is_not_starved_by_a_busy_one() {
        let quiet = counted(1, 41.0, false, false);
        let busy = counted(2, 10.0, true, false);
        assert_eq!(next(&[busy, quiet]).map(|next| next.inode), Some(1));
    }

    #[test]
    fn nothing_is_counted_twice_within_a_second() {
        assert_eq!(next(&[counted(1, 0.9, true, false)]), None);
    }
}
