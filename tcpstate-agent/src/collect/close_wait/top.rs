//! Which groups get series of their own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{Age, Cause, Role, Tally, Verdict};
use crate::collect::{Admission, LabelSet, owners::OwnerLabels};

/// Series of one set of labels: four of the sockets, and two of the owner's descriptors.
const SERIES_OF_A_GROUP: u32 = 4 + 2;

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// Whose sockets.
    pub owner: OwnerLabels,
    /// Which side of the connections.
    pub role: Role,
    /// The service's port; `None` for several together.
    pub port: Option<u16>,
    /// Why they stay.
    pub cause: Cause,
}

/// What tells one series of verdicts from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictKey {
    /// Whose sockets.
    pub owner: OwnerLabels,
    /// Which side of the connections.
    pub role: Role,
    /// The service's port; `None` for several together.
    pub port: Option<u16>,
    /// What is wrong.
    pub verdict: Verdict,
}

impl SeriesKey {
    /// That of the series in which this one is where it has none of its own.
    #[must_use]
    pub fn folded(self) -> Self {
        Self {
            owner: OwnerLabels {
                process: OTHER.to_owned(),
                ..OwnerLabels::default()
            },
            port: None,
            ..self
        }
    }
}

/// The values of one set of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// Sockets.
    pub sockets: u64,
    /// Of how many only a lower bound of the age is known.
    pub lower_bound: u64,
    /// The oldest.
    pub oldest: Option<Age>,
    /// Unread bytes.
    pub unread_bytes: u64,
    /// Bytes that are not acknowledged.
    pub unacknowledged_bytes: u64,
}

/// What stands in the place of the process in the series of all that have none of their own.
pub const OTHER: &str = "other";

impl Series {
    /// Adds a group.
    pub fn add(&mut self, tally: &Tally) {
        self.merge(&Self {
            sockets: tally.sockets,
            lower_bound: tally.lower_bound,
            oldest: tally.oldest,
            unread_bytes: tally.unread_bytes,
            unacknowledged_bytes: tally.queues.unacknowledged_bytes,
        });
    }

    fn merge(&mut self, other: &Self) {
        self.sockets += other.sockets;
        self.lower_bound += other.lower_bound;
        self.oldest = self.oldest.max(other.oldest);
        self.unread_bytes += other.unread_bytes;
        self.unacknowledged_bytes += other.unacknowledged_bytes;
    }
}

/// Keeps the `limit` largest and the `limit` oldest of those that are admitted, of named services before
/// all others, and folds the rest together by role and cause. Also returns how many were folded.
#[must_use]
pub fn top(
    all: BTreeMap<SeriesKey, Series>,
    limit: usize,
    admission: &mut Admission,
    now: Instant,
) -> (BTreeMap<SeriesKey, Series>, u64) {
    let mut first = |rank: &dyn Fn(&Series) -> (u64, Option<Age>)| -> BTreeSet<SeriesKey> {
        let is_named = |key: &SeriesKey| admission.is_named(&key.owner, key.port);
        let mut ranked: Vec<_> = all
            .iter()
            .map(|(key, series)| (key, (is_named(key), rank(series))))
            .collect();
        // Equal ones stay in the order of their labels, so that a series does not come and go.
        ranked.sort_by_key(|(_, rank)| Reverse(*rank));
        let admitted = ranked.into_iter().filter(|(key, (is_named, _))| {
            let labels = LabelSet::of(&("close_wait", key));
            if *is_named {
                admission.admits_named(labels, SERIES_OF_A_GROUP, now)
            } else {
                admission.admits(labels, SERIES_OF_A_GROUP, now)
            }
        });
        let admitted = admitted.map(|(key, _)| key);
        admitted.take(limit).cloned().collect()
    };
    let mut kept = first(&|series| (series.sockets, series.oldest));
    kept.extend(first(&|series| {
        let seconds = series.oldest.map_or(0, |age| age.time.as_secs());
        (seconds, series.oldest)
    }));
    let mut shown = BTreeMap::<SeriesKey, Series>::new();
    let mut folded = 0;
    for (key, series) in all {
        let key = if kept.contains(&key) {
            key
        } else {
            folded += 1;
            key.folded()
        };
        shown.entry(key).or_default().merge(&series);
    }
    (shown, folded)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::collect::SeriesLimits;

    fn top_of(
        all: BTreeMap<SeriesKey, Series>,
        limit: usize,
    ) -> (BTreeMap<SeriesKey, Series>, u64) {
        let now = Instant::now();
        let mut admission = Admission::new(SeriesLimits::USUAL, now);
        top(all, limit, &mut admission, now)
    }

    #[test]
    fn what_is_not_admitted_is_summed_however_few_there_are() {
        let now = Instant::now();
        let limits = SeriesLimits {
            burst: SERIES_OF_A_GROUP,
            per_hour: 0,
        };
        let mut admission = Admission::new(limits, now);
        let small = (key("small", Cause::EofRead), series(2, 3));
        let all = BTreeMap::from([small.clone()]);
        assert_eq!(top(all.clone(), 10, &mut admission, now), (all, 0));
        let all = BTreeMap::from([small, (key("large", Cause::EofRead), series(100, 1))]);
        let (shown, folded) = top(all, 10, &mut admission, now);
        let names: Vec<_> = shown.keys().map(|key| &*key.owner.process).collect();
        assert_eq!((names, folded), (vec![OTHER, "small"], 1));
    }

    fn key(process: &str, cause: Cause) -> SeriesKey {
        SeriesKey {
            owner: OwnerLabels {
                process: process.to_owned(),
                ..OwnerLabels::default()
            },
            role: Role::Client,
            port: Some(80),
            cause,
        }
    }

    fn series(sockets: u64, seconds: u64) -> Series {
        Series {
            sockets,
            lower_bound: 1,
            oldest: Some(Age {
                time: Duration::from_secs(seconds),
                is_exact: true,
            }),
            unread_bytes: 10,
            unacknowledged_bytes: 5,
        }
    }

    #[test]
    fn the_largest_and_the_oldest_stay_and_the_others_are_summed() {
        let all = BTreeMap::from([
            (key("large", Cause::EofRead), series(100, 1)),
            (key("old", Cause::EofRead), series(1, 9_000)),
            (key("small", Cause::EofRead), series(2, 3)),
            (key("tiny", Cause::EofRead), series(1, 2)),
            (key("tiny", Cause::FinUnread), series(1, 1)),
        ]);
        let (shown, folded) = top_of(all, 1);
        assert_eq!(folded, 3);
        let other = |cause| SeriesKey {
            port: None,
            ..key(OTHER, cause)
        };
        let merged = Series {
            sockets: 3,
            lower_bound: 2,
            unread_bytes: 20,
            unacknowledged_bytes: 10,
            ..series(0, 3)
        };
        assert_eq!(
            shown,
            BTreeMap::from([
                (key("large", Cause::EofRead), series(100, 1)),
                (key("old", Cause::EofRead), series(1, 9_000)),
                (other(Cause::EofRead), merged),
                (other(Cause::FinUnread), series(1, 1)),
            ])
        );
    }

    #[test]
    fn nothing_is_folded_where_all_fit() {
        let all = BTreeMap::from([(key("one", Cause::Sending), series(1, 1))]);
        assert_eq!(top_of(all.clone(), 1), (all, 0));
    }

    #[test]
    fn with_no_series_of_their_own_all_are_folded() {
        let all = BTreeMap::from([(key("one", Cause::Sending), series(1, 1))]);
        let (shown, folded) = top_of(all, 0);
        assert_eq!((shown.len(), folded), (1, 1));
    }
}
