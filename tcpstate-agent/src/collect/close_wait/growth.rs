//! How fast a group grows, and when a process has no descriptor left: only where more come, and go on
//! coming.

use std::time::Duration;

use super::{Cause, ReportGroup};

/// Where so many should have come and none did, none come any more: by chance that happens once
/// in twenty times.
pub(crate) const SURELY_SEEN: f64 = 3.0;
/// What a look may be late.
const LATE: Duration = Duration::from_millis(500);

/// How the sockets of a group become more or fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Growth {
    /// How many more each second; `None` where that is not known.
    pub(super) per_second: Option<f64>,
    /// The same where it has gone on for a while and will: what a forecast is made from.
    pub(super) lasting: Option<f64>,
}

impl Growth {
    /// That of a group between two looks that are so far apart, or by the ages in one.
    pub(super) fn of(now: &ReportGroup, first: Option<(Option<&ReportGroup>, Duration)>) -> Self {
        let seen = first.and_then(|(before, interval)| between(now, before, interval));
        let by_ages = now.arrivals_per_second.filter(|rate| {
            let interval = first.map_or(Duration::ZERO, |(_, interval)| interval);
            let is_missed = rate * interval.as_secs_f64() >= SURELY_SEEN;
            match seen {
                Some(seen) => seen > 0.0 || (now.facts.is_growing && seen == 0.0 && !is_missed),
                None => now.facts.is_growing,
            }
        });
        Self {
            per_second: match seen {
                Some(seen) if seen != 0.0 => Some(seen),
                seen => by_ages.or(seen),
            },
            // Those that wait to be accepted take no descriptor.
            lasting: by_ages.filter(|_| now.cause != Cause::Unaccepted),
        }
    }
}

/// What two looks show. `None` where the group, or its namespace, was not there at the first one, and
/// is not as young as that: then it was not found.
fn between(now: &ReportGroup, before: Option<&ReportGroup>, interval: Duration) -> Option<f64> {
    let since = interval + LATE;
    let before = match before {
        Some(before) => before.sockets,
        None if now.oldest_age_seconds <= since.as_secs_f64() && is_exact(now) => 0,
        None => return None,
    };
    // What was there at the first look has changed its cause or its owner.
    let came = now.youngest_age_seconds <= since.as_secs_f64();
    if now.sockets > before && !came {
        return Some(0.0);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of sockets, far below 2^53"
    )]
    let more = now.sockets as f64 - before as f64;
    Some(more / interval.as_secs_f64())
}

const fn is_exact(group: &ReportGroup) -> bool {
    group.age_lower_bound_sockets == 0
}

/// In how long a process has no descriptor left of which it may have `left` more, with this many
/// sockets more each second.
#[expect(clippy::cast_precision_loss, reason = "descriptors, far below 2^53")]
pub(super) fn exhausted_in(left: u64, lasting: f64) -> Option<f64> {
    match left {
        0 => Some(0.0),
        left => (lasting > 0.0).then(|| left as f64 / lasting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::compare::tests::group;

    const INTERVAL: Duration = Duration::from_secs(2);

    /// A group with so many sockets, of the ages of the youngest and the oldest.
    fn aged(sockets: u64, youngest: f64, oldest: f64) -> ReportGroup {
        ReportGroup {
            youngest_age_seconds: youngest,
            oldest_age_seconds: oldest,
            ..group(1, 80, sockets)
        }
    }

    fn steady(group: ReportGroup, rate: f64) -> ReportGroup {
        let mut group = ReportGroup {
            arrivals_per_second: Some(rate),
            ..group
        };
        group.facts.is_growing = true;
        group
    }

    #[test]
    fn growth_is_what_came_between_two_looks_and_lasts_where_ages_say_so() {
        let (none, rate) = (None::<f64>, Some::<f64>);
        for (before, now, per_second, lasting) in [
            // A burst, and a leak.
            (Some(100), aged(120, 0.1, 900.0), rate(10.0), none),
            (
                Some(100),
                steady(aged(120, 0.1, 900.0), 9.0),
                rate(10.0),
                rate(9.0),
            ),
            // Not seen in two seconds, and yet it leaks: six a minute.
            (
                Some(100),
                steady(aged(100, 5.0, 900.0), 0.1),
                rate(0.1),
                rate(0.1),
            ),
            // It came steadily and does not any more; or as many go.
            (
                Some(100),
                steady(aged(100, 5.0, 900.0), 2.0),
                rate(0.0),
                none,
            ),
            (
                Some(100),
                steady(aged(90, 0.1, 900.0), 9.0),
                rate(-5.0),
                none,
            ),
            // The pool that was closed an hour ago.
            (Some(20), aged(20, 3_600.0, 3_600.0), rate(0.0), none),
            // They were not counted here before.
            (Some(10), aged(30, 60.0, 900.0), rate(0.0), none),
            (None, aged(30, 3.0, 3.1), none, none),
            // They are new.
            (None, aged(30, 0.5, 1.9), rate(15.0), none),
        ] {
            let before = before.map(|sockets| group(1, 80, sockets));
            let growth = Growth::of(&now, Some((before.as_ref(), INTERVAL)));
            assert_eq!(
                growth,
                Growth {
                    per_second,
                    lasting
                },
                "{before:?} {now:?}"
            );
        }
    }

    #[test]
    fn one_look_knows_what_ages_tell() {
        let old = aged(100, 5.0, 900.0);
        assert_eq!(Growth::of(&old, None), Growth::default());
        let leak = steady(old, 0.1);
        assert_eq!(Growth::of(&leak, None).lasting, Some(0.1));
        let waiting = ReportGroup {
            cause: Cause::Unaccepted,
            ..leak
        };
        let growth = Growth::of(&waiting, None);
        assert_eq!((growth.per_second, growth.lasting), (Some(0.1), None));
    }

    #[test]
    fn descriptors_run_out_where_something_grows_or_none_is_left() {
        assert_eq!(exhausted_in(100, 2.0), Some(50.0));
        assert_eq!(exhausted_in(100, 0.0), None);
        assert_eq!(exhausted_in(0, 0.0), Some(0.0));
    }
}
