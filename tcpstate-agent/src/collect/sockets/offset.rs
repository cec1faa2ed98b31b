//! The difference between the true number of sockets in a state and its live counter.
//!
//! The live counter follows every transition, so the difference is a constant: the sockets that
//! were in the state before the counter began. A snapshot measures it, but a snapshot takes
//! time, and a socket that moves meanwhile may be seen before, after, or not at all. So what one
//! snapshot gives is a range, no wider than the movement while it ran; and because the constant
//! stays the same, ranges of successive snapshots can be intersected. A single quiet snapshot
//! makes it exact for good.
//!
//! A transition that the kernel did not show moves the constant by one in either direction. How
//! many those were is known, so what was known before is widened by as much.

use tcpstate_common::StateFlow;

/// A range that holds the offset of one state's live counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    low: i64,
    high: i64,
}

impl Offset {
    /// What a snapshot says that found `found` sockets in the state while the counters went from
    /// `before` to `after`.
    ///
    /// Of the sockets that were there when it began, it has missed at most those that left; of
    /// those that came, it has seen at most all.
    #[must_use]
    pub fn measured(found: u64, before: StateFlow, after: StateFlow) -> Self {
        let entered = i64::from(after.entered.wrapping_sub(before.entered));
        let left = i64::from(after.left.wrapping_sub(before.left));
        let base = found.cast_signed() - before.live();
        let high = base + left;
        // No state ever holds fewer than no sockets.
        let low = (base - entered)
            .max(-before.live())
            .max(-after.live())
            .min(high);
        Self { low, high }
    }

    /// What is left of it after so many transitions that the live counter has missed: each of them
    /// has let a socket come or go without it.
    ///
    /// Those during the snapshot that measured it are among them. A socket that left unseen may have
    /// been found before, and one that came unseen may not have been, which makes the offset at the
    /// end of the snapshot wrong by as many as there were, and not by twice as many.
    #[must_use]
    pub fn widened_by(self, missed: u64) -> Self {
        // So many that nothing is known any more, and few enough to be added.
        let missed = i64::from(u32::try_from(missed).unwrap_or(u32::MAX));
        Self {
            low: self.low.saturating_sub(missed),
            high: self.high.saturating_add(missed),
        }
    }

    /// What is known when `newer` is measured as well.
    ///
    /// Where the two contradict each other, an event was missed or a socket changed its family:
    /// then the newer one is right.
    #[must_use]
    pub fn narrowed_by(self, newer: Self) -> Self {
        let low = self.low.max(newer.low);
        let high = self.high.min(newer.high);
        if low <= high {
            Self { low, high }
        } else {
            newer
        }
    }

    /// The number of sockets in the state when its live counter is at `now`.
    #[must_use]
    pub fn gauge(self, now: StateFlow) -> u64 {
        let middle = self.low + (self.high - self.low) / 2;
        u64::try_from(middle + now.live()).unwrap_or(0)
    }

    /// By how many sockets [`Offset::gauge`] can be wrong.
    #[must_use]
    pub fn uncertainty(self) -> u64 {
        (self.high - self.low).unsigned_abs().div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn flow(entered: u32, left: u32) -> StateFlow {
        StateFlow { entered, left }
    }

    #[test]
    fn a_quiet_snapshot_is_exact() {
        let offset = Offset::measured(100, flow(7, 3), flow(7, 3));
        assert_eq!(offset.uncertainty(), 0);
        assert_eq!(offset.gauge(flow(7, 3)), 100);
        assert_eq!(offset.gauge(flow(7, 53)), 50);
    }

    #[test]
    fn a_snapshot_in_the_middle_of_a_storm_does_not_spoil_an_exact_one() {
        let quiet = Offset::measured(50_000, flow(0, 0), flow(0, 0));
        // All of them leave while it runs, and it happens to see a third of them.
        let storm = Offset::measured(16_000, flow(0, 0), flow(0, 50_000));
        assert!(storm.uncertainty() > 0);
        let both = quiet.narrowed_by(storm);
        assert_eq!(both.uncertainty(), 0);
        assert_eq!(both.gauge(flow(0, 50_000)), 0);
    }

    #[test]
    fn a_contradiction_is_decided_for_the_newer_measurement() {
        let older = Offset::measured(10, flow(0, 0), flow(0, 0));
        let newer = Offset::measured(12, flow(0, 0), flow(0, 0));
        assert_eq!(older.narrowed_by(newer).gauge(flow(0, 0)), 12);
    }

    #[test]
    fn counters_that_wrap_around_count_on() {
        let offset = Offset::measured(5, flow(u32::MAX, 0), flow(u32::MAX, 0));
        assert_eq!(offset.gauge(flow(1, 0)), 7);
        let offset = Offset::measured(5, flow(2, u32::MAX), flow(3, u32::MAX));
        assert_eq!(offset.uncertainty(), 1);
    }

    #[test]
    fn a_gauge_is_never_negative() {
        let offset = Offset::measured(1, flow(0, 0), flow(0, 0));
        assert_eq!(offset.gauge(flow(0, 5)), 0);
    }

    /// A state that is watched: it begins with `initial` sockets before the counters do, and
    /// then sockets come and go while a walk sees each of them or not.
    #[derive(Clone, Debug)]
    struct History {
        initial: u64,
        quiet: Vec<bool>,
        storm: Vec<Move>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Move {
        /// A socket comes, and the walk sees it or has passed its place.
        Come { seen: bool },
        /// One of the first sockets leaves, and the walk has seen it before or not.
        Go { seen: bool },
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            any::<bool>().prop_map(|seen| Move::Come { seen }),
            any::<bool>().prop_map(|seen| Move::Go { seen }),
        ];
        prop::collection::vec(one, 0..60)
    }

    fn histories() -> impl Strategy<Value = History> {
        (
            0_u64..100,
            prop::collection::vec(any::<bool>(), 0..60),
            moves(),
        )
            .prop_map(|(initial, quiet, storm)| History {
                initial,
                quiet,
                storm,
            })
    }

    /// A socket that comes or goes.
    #[derive(Clone, Copy, Debug)]
    struct Step {
        comes: bool,
        /// The kernel does not show it.
        is_missed: bool,
        /// By a walk that runs meanwhile.
        is_found: bool,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let one = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
        let one = one.prop_map(|(comes, is_missed, is_found)| Step {
            comes,
            is_missed,
            is_found,
        });
        prop::collection::vec(one, 0..20)
    }

    /// A state, its live counter, and what that has missed.
    struct Watched {
        counters: StateFlow,
        truth: u64,
        missed: u64,
    }

    impl Watched {
        fn take(&mut self, step: Step) {
            match (step.comes, self.truth) {
                (false, 0) => return,
                (true, _) => self.truth += 1,
                (false, _) => self.truth -= 1,
            }
            match (step.is_missed, step.comes) {
                (true, _) => self.missed += 1,
                (false, true) => self.counters.entered += 1,
                (false, false) => self.counters.left += 1,
            }
        }
    }

    proptest! {
        /// Whatever a walk sees of the sockets that move while it runs, the truth is within the
        /// uncertainty that it states.
        #[test]
        fn the_truth_is_within_the_stated_uncertainty(history in histories()) {
            let History { initial, quiet, storm } = history;
            let mut counters = flow(0, 0);
            let mut truth = initial;
            for come in quiet {
                if come {
                    counters.entered += 1;
                    truth += 1;
                } else if truth > 0 {
                    counters.left += 1;
                    truth -= 1;
                }
            }
            let before = counters;
            let mut seen_by_walk = 0;
            let mut unmoved = truth;
            for step in storm {
                match step {
                    Move::Come { seen } => {
                        counters.entered += 1;
                        truth += 1;
                        seen_by_walk += u64::from(seen);
                    }
                    Move::Go { seen } if unmoved > 0 => {
                        counters.left += 1;
                        truth -= 1;
                        unmoved -= 1;
                        seen_by_walk += u64::from(seen);
                    }
                    Move::Go { .. } => {}
                }
            }
            let offset = Offset::measured(unmoved + seen_by_walk, before, counters);
            let gauge = offset.gauge(counters);
            prop_assert!(
                gauge.abs_diff(truth) <= offset.uncertainty(),
                "{gauge} is not {truth} ± {}", offset.uncertainty()
            );
        }

        /// Snapshot after snapshot, with transitions that are shown and others that are missed,
        /// during snapshots and between them: at the end of each the truth is within what it
        /// states and what was missed while it ran.
        #[test]
        fn what_was_missed_is_allowed_for(
            initial in 0_u64..100,
            rounds in prop::collection::vec((steps(), steps()), 1..6),
        ) {
            let mut state = Watched { counters: flow(0, 0), truth: initial, missed: 0 };
            let mut known: Option<(Offset, u64)> = None;
            for (quiet, walk) in rounds {
                for step in quiet {
                    state.take(step);
                }
                // As the agent does it: what was missed is read before the walk.
                let (missed, before) = (state.missed, state.counters);
                let mut unmoved = state.truth;
                let mut found = 0;
                for step in walk {
                    if !step.comes {
                        if unmoved == 0 {
                            continue;
                        }
                        unmoved -= 1;
                    }
                    state.take(step);
                    found += u64::from(step.is_found);
                }
                let newer = Offset::measured(unmoved + found, before, state.counters);
                let offset = known.map_or(newer, |(known, missed_before)| {
                    known.widened_by(missed - missed_before).narrowed_by(newer)
                });
                let truth = state.truth.cast_signed() - state.counters.live();
                let now = offset.widened_by(state.missed - missed);
                prop_assert!(now.low <= truth && truth <= now.high, "{truth} in {now:?}");
                known = Some((offset, missed));
            }
        }

        /// Two measurements that are both right leave a range that is still right.
        #[test]
        fn narrowing_keeps_the_truth(truth in 0_i64..1000, ranges in prop::collection::vec((0_i64..50, 0_i64..50), 1..10)) {
            let mut known: Option<Offset> = None;
            for (below, above) in ranges {
                let measured = Offset { low: truth - below, high: truth + above };
                known = Some(known.map_or(measured, |known| known.narrowed_by(measured)));
            }
            let known = known.unwrap();
            prop_assert!(known.low <= truth && truth <= known.high);
        }
    }
}
