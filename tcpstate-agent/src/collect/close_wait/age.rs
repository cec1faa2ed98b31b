//! For how long sockets have been in CLOSE_WAIT.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::TickRate;
use crate::decode::CloseWaitSocket;

/// How long a socket has been in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Age {
    /// How long, or at least how long.
    pub time: Duration,
    /// Its beginning was seen. If not, this is the time since the peer last acknowledged
    /// anything, and the socket may be older.
    pub is_exact: bool,
}

impl Age {
    /// The age of `socket` when the clock says `now_ns`.
    #[must_use]
    pub fn of(socket: &CloseWaitSocket, now_ns: u64, tick_rate: Option<TickRate>) -> Self {
        match (socket.since_ns, tick_rate) {
            (Some(since), _) => Self {
                time: Duration::from_nanos(now_ns.saturating_sub(since)),
                is_exact: true,
            },
            (None, Some(rate)) => Self {
                time: rate.duration(socket.last_ack_jiffies),
                is_exact: false,
            },
            (None, None) => Self {
                time: Duration::ZERO,
                is_exact: false,
            },
        }
    }
}

/// The limits of `tcpstate_close_wait_age_sockets`, seconds.
pub const OLDER_THAN_SECONDS: [u64; 6] = [1, 10, 60, 600, 3_600, 86_400];

/// A rate is that of 16 seconds at least: in less, a burst looks like one.
const SHORTEST_SPAN: Duration = Duration::from_secs(16);
/// And of so many sockets.
const ARRIVALS: u64 = 6;
/// Where so many should have come since the youngest, none come any more.
const QUIET: f64 = 8.0;
/// So much uneven may what comes steadily be.
const UNEVEN: u64 = 4;

/// Enough for 17 years.
const BUCKETS: usize = 40;

/// The ages of many sockets, in buckets that double: below 1 ms, 2 ms, 4 ms, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ages([u32; BUCKETS]);

impl Default for Ages {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Ages {
    /// Adds one socket.
    pub fn add(&mut self, age: Duration) {
        self.0[bucket(age)] += 1;
    }

    /// Adds those of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (count, other) in self.0.iter_mut().zip(&other.0) {
            *count = count.saturating_add(*other);
        }
    }

    /// Takes away those of `other`, as far as they are there.
    pub fn remove(&mut self, other: &Self) {
        for (count, other) in self.0.iter_mut().zip(&other.0) {
            *count = count.saturating_sub(*other);
        }
    }

    /// Takes away the youngest until `sockets` are left.
    pub fn shrink_to(&mut self, sockets: u64) {
        let mut excess = self.total().saturating_sub(sockets);
        for count in &mut self.0 {
            let taken = u64::from(*count).min(excess);
            excess -= taken;
            *count -= u32::try_from(taken).unwrap_or(*count);
        }
    }

    /// How many sockets there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().copied().map(u64::from).sum()
    }

    /// How many are younger than `age`, or about as old.
    #[must_use]
    pub fn up_to(&self, age: Duration) -> u64 {
        let counts = self.0[..=bucket(age)].iter();
        counts.copied().map(u64::from).sum()
    }

    /// The age that half of them exceed, estimated within its bucket.
    #[must_use]
    pub fn median(&self) -> Duration {
        let half = self.total().div_ceil(2);
        let mut below = 0;
        for (bucket, &count) in self.0.iter().enumerate() {
            let count = u64::from(count);
            if count > 0 && below + count >= half {
                let (from, to) = (lower_edge(bucket), lower_edge(bucket + 1));
                let part = u32::try_from((half - below) * 1_000 / count).unwrap_or(1_000);
                return from + to.saturating_sub(from) * part / 1_000;
            }
            below += count;
        }
        Duration::ZERO
    }

    /// How many come a second, where they do so steadily, and go on doing so: some are as young as
    /// that would make them. A burst has equal ages, and one that has ended has no young ones.
    #[must_use]
    pub fn steady_rate(&self) -> Option<f64> {
        // Of a span of time: its younger half, in two quarters, and its older half.
        let first = bucket(SHORTEST_SPAN);
        (first..BUCKETS - 1).find_map(|older| {
            let sum = |counts: &[u32]| counts.iter().copied().map(u64::from).sum::<u64>();
            let youngest = sum(&self.0[..older - 1]);
            let (young, old) = (u64::from(self.0[older - 1]), u64::from(self.0[older]));
            let (half, all) = (youngest + young, youngest + young + old);
            let is_steady = all >= ARRIVALS
                && youngest > 0
                && young > 0
                && half * UNEVEN >= old
                && old * UNEVEN >= half
                && youngest * UNEVEN >= young
                && young * UNEVEN >= youngest;
            #[expect(clippy::cast_precision_loss, reason = "a rate of two digits")]
            let rate = all as f64 / lower_edge(older + 1).as_secs_f64();
            let goes_on = self.youngest_at_least().as_secs_f64() * rate <= QUIET;
            (is_steady && goes_on).then_some(rate)
        })
    }

    /// No socket is younger than this, but for what a bucket is wide.
    #[must_use]
    pub fn youngest_at_least(&self) -> Duration {
        let youngest = self.0.iter().position(|&count| count > 0);
        youngest.map_or(Duration::ZERO, lower_edge)
    }

    /// A lower bound of the age of the oldest.
    #[must_use]
    pub fn oldest_at_least(&self) -> Duration {
        self.0
            .iter()
            .rposition(|&count| count > 0)
            .map_or(Duration::ZERO, lower_edge)
    }
}

fn bucket(age: Duration) -> usize {
    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let bits = (u64::BITS - millis.leading_zeros()) as usize;
    bits.min(BUCKETS - 1)
}

fn lower_edge(bucket: usize) -> Duration {
    match bucket {
        0 => Duration::ZERO,
        bucket => Duration::from_millis(1 << (bucket - 1)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(millis: &[u64]) -> Ages {
        let mut ages = Ages::default();
        for &millis in millis {
            ages.add(Duration::from_millis(millis));
        }
        ages
    }

    #[test]
    fn the_median_is_within_the_bucket_of_the_true_one() {
        for (ages, true_median) in [
            (vec![5_000], 5_000),
            (vec![10, 20, 90_000], 20),
            (vec![1, 60_000, 61_000, 62_000], 60_000),
            ((0..1_000).map(|n| n * 100).collect(), 50_000),
        ] {
            let median = of(&ages).median().as_millis();
            let within = true_median / 2..=true_median * 2;
            assert!(within.contains(&median), "{median} for {true_median}");
        }
        assert_eq!(of(&[]).median(), Duration::ZERO);
    }

    #[test]
    fn the_youngest_go_first() {
        let mut ages = of(&[1, 10, 100, 1_000, 100_000]);
        ages.shrink_to(2);
        assert_eq!(ages, of(&[1_000, 100_000]));
        ages.shrink_to(9);
        assert_eq!(ages.total(), 2);
    }

    #[test]
    fn the_oldest_is_at_least_as_old_as_said() {
        assert_eq!(
            of(&[3, 90_000]).oldest_at_least(),
            Duration::from_millis(65_536)
        );
        assert_eq!(of(&[]).oldest_at_least(), Duration::ZERO);
    }

    #[test]
    fn a_burst_is_no_rate_and_what_comes_steadily_is_one() {
        // Age of the youngest and time between two, milliseconds; how many; each second.
        for (youngest, between, count, expected) in [
            (0, 1_000, 60, Some(1.0)),
            (500, 2_000, 1_000, Some(0.5)),
            (100, 10, 10_000, Some(100.0)),
            (0, 60_000, 500, Some(1.0 / 60.0)),
            // At once, just now and a while ago.
            (0, 1, 500, None),
            (8_192, 0, 500, None),
            (8_190, 1, 20, None),
            (600_000, 20, 900, None),
            // It has ended.
            (3_600_000, 1_000, 5_000, None),
            (3_000_000, 1_000, 13_000, None),
            // Too few to tell.
            (0, 10_000, 5, None),
        ] {
            let ages: Vec<u64> = (0..count).map(|n| youngest + n * between).collect();
            let rate = of(&ages).steady_rate();
            let is_near = match (rate, expected) {
                (Some(rate), Some(expected)) => (rate / expected - 1.0_f64).abs() < 0.5,
                (rate, expected) => rate == expected,
            };
            assert!(is_near, "{youngest} {between} {count}: {rate:?}");
        }
    }

    proptest! {
        /// As a pool that is closed at once, whenever that was.
        #[test]
        fn equal_ages_are_no_rate(age in 0..10_000_000_u64, count in 1..1_000_usize) {
            let ages = vec![age; count];
            prop_assert_eq!(of(&ages).steady_rate(), None);
            prop_assert!(of(&ages).youngest_at_least() <= Duration::from_millis(age));
        }
    }

    #[test]
    fn ages_beyond_all_measure_fit() {
        let mut ages = Ages::default();
        ages.add(Duration::MAX);
        assert_eq!(ages.total(), 1);
        assert_eq!(ages.up_to(Duration::MAX), 1);
    }
}
