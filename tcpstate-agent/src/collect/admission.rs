//! How many new series there may be: whoever makes sockets chooses labels, and a time series database
//! keeps each label that it has ever seen.
//!
//! The series of a set of labels are charged all at once when it is first shown: from a store that
//! holds a burst and fills up by so many an hour. What it has not enough for is added to the series
//! `other`. So over any time there are no more new series than the burst and what has come meanwhile,
//! whatever is done on the host. Services that the administrator has named have a reserve of their own
//! beside it, which nobody else can use up.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    sync::LazyLock,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::{NamedService, owners::OwnerLabels};

/// For how long labels that are not shown any more cost nothing to be shown again. Prometheus has
/// their series in its memory for two to three hours.
const REMEMBERED: Duration = Duration::from_hours(3);
/// How often to forget.
const FORGET_EVERY: Duration = Duration::from_mins(10);
/// The series of some hundred services.
const RESERVE: SeriesLimits = SeriesLimits {
    burst: 2000,
    per_hour: 100,
};
const HOUR: Duration = Duration::from_hours(1);

/// How many new series there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesLimits {
    /// At once.
    pub burst: u32,
    /// And in each hour.
    pub per_hour: u32,
}

impl SeriesLimits {
    /// Far more than hosts have that nobody attacks.
    pub const USUAL: Self = Self {
        burst: 10_000,
        per_hour: 500,
    };
}

/// A set of labels, in short. Whoever chooses the labels does not know the key, so that no two sets
/// that are made to look alike do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LabelSet(u64);

impl LabelSet {
    /// That of these labels, of which the first tells metrics with different ones apart.
    #[must_use]
    pub fn of(labels: &impl Hash) -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEY.hash_one(labels))
    }
}

/// So many series may be new now.
#[derive(Debug)]
struct Store {
    limits: SeriesLimits,
    left: f64,
    filled_at: Instant,
}

impl Store {
    fn full(limits: SeriesLimits, now: Instant) -> Self {
        Self {
            limits,
            left: f64::from(limits.burst),
            filled_at: now,
        }
    }

    /// Whether there is enough, which is then taken.
    fn pay(&mut self, series: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled_at);
        let come = f64::from(self.limits.per_hour) * passed.as_secs_f64() / HOUR.as_secs_f64();
        self.left = (self.left + come).min(f64::from(self.limits.burst));
        self.filled_at = now;
        let cost = f64::from(series);
        let is_enough = cost <= self.left;
        if is_enough {
            self.left -= cost;
        }
        is_enough
    }
}

/// Lets series in.
#[derive(Debug)]
pub struct Admission {
    store: Store,
    named: Vec<NamedService>,
    reserve: Store,
    /// When each set of labels was shown last.
    shown: FxHashMap<LabelSet, Instant>,
    forgot_at: Instant,
    has_refused: bool,
}

impl Admission {
    /// With a full store.
    #[must_use]
    pub fn new(limits: SeriesLimits, now: Instant) -> Self {
        Self {
            store: Store::full(limits, now),
            named: Vec::new(),
            reserve: Store::full(RESERVE, now),
            shown: FxHashMap::default(),
            forgot_at: now,
            has_refused: false,
        }
    }

    /// The same, with a reserve for these services.
    #[must_use]
    pub fn with_named(mut self, named: Vec<NamedService>) -> Self {
        self.named = named;
        self
    }

    /// Whether the administrator has named any service.
    #[must_use]
    pub const fn names_any(&self) -> bool {
        !self.named.is_empty()
    }

    /// Whether the administrator has named this owner's service at this port.
    #[must_use]
    pub fn is_named(&self, owner: &OwnerLabels, port: Option<u16>) -> bool {
        self.named.iter().any(|service| service.is(owner, port))
    }

    /// Whether these labels, which have so many series, may be shown now.
    pub fn admits(&mut self, labels: LabelSet, series: u32, now: Instant) -> bool {
        self.admits_from(false, labels, series, now)
    }

    /// The same for labels of a named service.
    pub fn admits_named(&mut self, labels: LabelSet, series: u32, now: Instant) -> bool {
        self.admits_from(true, labels, series, now)
    }

    fn admits_from(&mut self, is_named: bool, labels: LabelSet, series: u32, now: Instant) -> bool {
        if let Some(shown) = self.shown.get_mut(&labels)
            && now.saturating_duration_since(*shown) < REMEMBERED
        {
            *shown = now;
            return true;
        }
        self.forget(now);
        let is_paid = is_named && self.reserve.pay(series, now) || self.store.pay(series, now);
        if !is_paid {
            self.has_refused = true;
            return false;
        }
        self.shown.insert(labels, now);
        true
    }

    /// Whether these labels were shown lately.
    #[must_use]
    pub fn knows(&self, labels: LabelSet) -> bool {
        self.shown.contains_key(&labels)
    }

    /// Whether any were refused so far.
    #[must_use]
    pub const fn has_refused(&self) -> bool {
        self.has_refused
    }

    fn forget(&mut self, now: Instant) {
        if now.saturating_duration_since(self.forgot_at) >= FORGET_EVERY {
            self.shown
                .retain(|_, shown| now.saturating_duration_since(*shown) < REMEMBERED);
            self.forgot_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_named_service_is_shown_though_others_have_used_up_all_there_was() {
        let now = Instant::now();
        let limits = SeriesLimits {
            burst: 10,
            per_hour: 0,
        };
        let named = vec![NamedService::Port(5432)];
        let mut admission = Admission::new(limits, now).with_named(named);
        let set = |number: u32| LabelSet::of(&number);
        let owner = OwnerLabels::default();
        assert!(admission.is_named(&owner, Some(5432)) && !admission.is_named(&owner, Some(1)));
        assert!(admission.admits(set(0), 10, now));
        assert!(!admission.admits(set(1), 1, now));
        assert!(admission.admits_named(set(2), 17, now));
        // Whoever takes the port takes no more than the reserve.
        let more = (3..1000).filter(|number| admission.admits_named(set(*number), 17, now));
        let most = RESERVE.burst / 17 - 1;
        assert_eq!(more.count(), usize::try_from(most).unwrap());
    }

    #[test]
    fn what_was_shown_lately_costs_nothing_and_what_was_not_is_new_again() {
        let start = Instant::now();
        let limits = SeriesLimits {
            burst: 10,
            per_hour: 1,
        };
        let mut admission = Admission::new(limits, start);
        let set = |name: &str| LabelSet::of(&name);
        assert!(admission.admits(set("one"), 10, start));
        assert!(!admission.admits(set("two"), 1, start));
        let later = start + REMEMBERED.saturating_sub(Duration::from_secs(1));
        assert!(admission.admits(set("one"), 10, later));
        assert!(admission.knows(set("one")) && !admission.knows(set("two")));
        // Two of an hour each.
        assert!(admission.admits(set("two"), 2, later));
        assert!(!admission.admits(set("three"), 2, later));
        assert!(admission.has_refused());
        let much_later = later + REMEMBERED + HOUR;
        assert!(admission.admits(set("three"), 1, much_later));
        assert!(!admission.knows(set("one")));
    }

    #[test]
    fn what_is_known_does_not_fill_the_memory() {
        let start = Instant::now();
        let mut admission = Admission::new(SeriesLimits::USUAL, start);
        for minute in 0..3 * 24 * 60 {
            let now = start + Duration::from_mins(1) * minute;
            for name in 0..100 {
                admission.admits(LabelSet::of(&(minute, name)), 1, now);
            }
        }
        // Of the last three hours, and what was not forgotten yet.
        assert!(
            admission.shown.len() <= 500 * 4,
            "{}",
            admission.shown.len()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However labels come, go and come back, a day has no more new series than the burst and 24
        /// hours' worth. What a database counts as new is what it has not seen for three hours.
        #[test]
        fn the_worst_day_has_no_more_than_the_burst_and_what_comes_in_a_day(
            looks in prop::collection::vec((0_u64..600, prop::collection::vec((0_u32..4_000, 1_u32..40), 0..60)), 1..300),
        ) {
            let start = Instant::now();
            let mut admission = Admission::new(SeriesLimits::USUAL, start);
            let mut seen = std::collections::HashMap::<u32, Instant>::new();
            let (mut now, mut new) = (start, 0_u64);
            for (wait, labels) in looks {
                now += Duration::from_secs(wait);
                if now - start > Duration::from_hours(24) {
                    break;
                }
                for (name, series) in labels {
                    if admission.admits(LabelSet::of(&name), series, now) {
                        let before = seen.insert(name, now);
                        if before.is_none_or(|before| now - before >= REMEMBERED) {
                            new += u64::from(series);
                        }
                    }
                }
            }
            prop_assert!(new <= 10_000 + 24 * 500, "{new}");
        }
    }
}
