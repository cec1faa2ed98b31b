//! How long sockets stayed in a state: the buckets that the kernel side fills.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Upper bounds of the buckets for CLOSE_WAIT, in nanoseconds, each inclusive: from the
/// microseconds that a program takes to answer an end-of-file to the day that a leak lasts.
pub const CLOSE_WAIT_BOUNDS_NS: [u64; DURATION_BOUNDS] = [
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
    3_600_000_000_000,
    86_400_000_000_000,
];

/// How many bounds a state's buckets have.
pub const DURATION_BOUNDS: usize = 11;
/// A power of two above the number of buckets, for a cheap bounds check.
const SLOTS: usize = 16;

/// How long sockets stayed in one state, on one CPU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Durations {
    /// Durations by bucket, not cumulative; the one after the last bound is for longer ones.
    pub count: [u64; SLOTS],
    /// Sum of all durations, nanoseconds.
    pub sum_ns: u64,
    /// Sockets that left the state and whose beginning is not known: it was before the programs
    /// came, or was displaced.
    pub unknown: u64,
    /// Beginnings that had to make room for another socket's.
    pub displaced: u64,
}

impl Durations {
    /// Counts one duration.
    #[inline(always)]
    pub fn observe(&mut self, nanoseconds: u64, bounds: &[u64; DURATION_BOUNDS]) {
        self.count[bucket(nanoseconds, bounds) & (SLOTS - 1)] += 1;
        self.sum_ns = self.sum_ns.wrapping_add(nanoseconds);
    }

    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        let Self {
            count,
            sum_ns,
            unknown,
            displaced,
        } = self;
        for (count, other) in count.iter_mut().zip(&other.count) {
            *count = count.wrapping_add(*other);
        }
        *sum_ns = sum_ns.wrapping_add(other.sum_ns);
        *unknown = unknown.wrapping_add(other.unknown);
        *displaced = displaced.wrapping_add(other.displaced);
    }

    /// Sockets with a known duration.
    #[must_use]
    pub fn observed(&self) -> u64 {
        self.count.iter().sum()
    }
}

/// How many of `bounds` are below `nanoseconds`. Without branches: to the verifier each would
/// double the paths.
#[inline(always)]
fn bucket(nanoseconds: u64, bounds: &[u64; DURATION_BOUNDS]) -> usize {
    let mut below = 0;
    let mut index = 0;
    while index < DURATION_BOUNDS {
        // The sign of a difference; both are far below 2^63.
        below += bounds[index].wrapping_sub(nanoseconds) >> 63;
        index += 1;
    }
    // At most DURATION_BOUNDS. The mask is for the verifier, which cannot know.
    usize::try_from(below & (SLOTS as u64 - 1)).unwrap_or(0)
}

const _: () = {
    assert!(size_of::<Durations>() == 152);
    assert!(DURATION_BOUNDS < SLOTS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (nanoseconds, bucket) in [
            (0, 0),
            (10_000, 0),
            (10_001, 1),
            (1_000_000_000, 5),
            (1_000_000_001, 6),
            (86_400_000_000_000, 10),
            (86_400_000_000_001, 11),
            (u64::MAX / 4, 11),
        ] {
            let mut durations = Durations::default();
            durations.observe(nanoseconds, &CLOSE_WAIT_BOUNDS_NS);
            assert_eq!(durations.count[bucket], 1, "{nanoseconds} ns");
            assert_eq!(durations.observed(), 1);
            assert_eq!(durations.sum_ns, nanoseconds);
        }
    }

    #[test]
    fn bounds_rise() {
        assert!(CLOSE_WAIT_BOUNDS_NS.is_sorted());
    }

    #[test]
    fn the_counts_of_cpus_add_up() {
        let one = Durations {
            count: [1; SLOTS],
            sum_ns: 2,
            unknown: 3,
            displaced: 4,
        };
        let mut sum = one;
        sum.add(&one);
        assert_eq!(
            sum,
            Durations {
                count: [2; SLOTS],
                sum_ns: 4,
                unknown: 6,
                displaced: 8,
            }
        );
    }
}
