//! When to count: never more than a share of one core.

use std::time::{Duration, Instant};

/// For how long CPU time can be saved up. Short against the minute over which the share of a core
/// is to be kept.
const SAVED: Duration = Duration::from_secs(10);
/// Long enough to be no time at all to wait for.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// CPU time that may still be used.
///
/// It fills up at the given share of one core, up to what that is in ten seconds. Whatever is
/// begun may be finished, at any cost; then nothing more is begun until the debt is paid off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    share: f64,
    seconds: f64,
    filled_at: Instant,
}

impl Budget {
    /// A full budget of `percent` of one core.
    #[must_use]
    pub(super) fn new(percent: f64, now: Instant) -> Self {
        let share = percent / 100.0;
        Self {
            share,
            seconds: share * SAVED.as_secs_f64(),
            filled_at: now,
        }
    }

    /// How long to wait before anything more is begun; nothing where there is no debt.
    #[must_use]
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.seconds_earned_in((-self.seconds).max(0.0))
    }

    /// How long it takes until so much may be used.
    #[must_use]
    pub(super) fn earned_in(&self, cost: Duration) -> Duration {
        self.seconds_earned_in(cost.as_secs_f64())
    }

    fn seconds_earned_in(&self, cost: f64) -> Duration {
        Duration::try_from_secs_f64(cost / self.share)
            .unwrap_or(LONGEST_WAIT)
            .min(LONGEST_WAIT)
    }

    /// Takes note that `cost` was spent.
    pub(super) fn spend(&mut self, cost: Duration, now: Instant) {
        self.fill(now);
        self.seconds -= cost.as_secs_f64();
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let limit = self.share * SAVED.as_secs_f64();
        self.seconds = (self.seconds + passed * self.share).min(limit);
        self.filled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// What is spent in a minute by something that costs `cost` and is done as often as it may.
    fn spent_in_a_minute(cost: f64) -> f64 {
        let start = Instant::now();
        let mut budget = Budget::new(2.0, start);
        let mut spent = 0.0;
        for tenth in 0..600 {
            let now = start + seconds(0.1) * tenth;
            if budget.wait(now).is_zero() {
                budget.spend(seconds(cost), now);
                spent += cost;
            }
        }
        spent
    }

    #[test]
    fn over_a_minute_little_more_than_the_share_is_spent() {
        // The share is 1.2 s; 0.2 s had been saved up, and the last one may be begun before the
        // debt is due.
        for cost in [0.001, 0.05, 0.5] {
            let spent = spent_in_a_minute(cost);
            assert!(spent <= 1.4 + cost, "{spent} at {cost}");
        }
        assert!(spent_in_a_minute(0.05) >= 1.2);
    }

    #[test]
    fn a_debt_is_waited_for_until_it_is_paid_off() {
        let start = Instant::now();
        let mut budget = Budget::new(2.0, start);
        assert_eq!(budget.wait(start), Duration::ZERO);
        budget.spend(seconds(5.2), start);
        let wait = budget.wait(start);
        assert!((wait.as_secs_f64() - 250.0).abs() < 1e-6, "{wait:?}");
        assert!(!budget.wait(start + seconds(249.0)).is_zero());
        assert!(budget.wait(start + seconds(251.0)).is_zero());
    }

    #[test]
    fn what_it_costs_is_earned_in_proportion() {
        let budget = Budget::new(2.0, Instant::now());
        assert_eq!(budget.earned_in(seconds(0.02)), seconds(1.0));
        assert_eq!(budget.earned_in(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_debt_that_cannot_be_paid_off_is_waited_for_all_the_same() {
        let start = Instant::now();
        let mut budget = Budget::new(f64::MIN_POSITIVE, start);
        budget.spend(seconds(1.0), start);
        assert_eq!(budget.wait(start), LONGEST_WAIT);
    }
}
