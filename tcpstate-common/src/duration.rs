//! How long sockets stayed in a state: the buckets that the kernel side fills.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::TcpState;

/// Upper bounds of the buckets for the time in a state, in nanoseconds, each inclusive: from the
/// microseconds that a kernel on the same host takes to answer, over round trips and what a
/// retransmission or two make of them, to the day that a leak in CLOSE_WAIT lasts. One set for all
/// states: two would be twice the code in every transition.
pub const STATE_BOUNDS_NS: [u64; 15] = [
    10_000,
    50_000,
    100_000,
    1_000_000,
    5_000_000,
    10_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
    3_600_000_000_000,
    86_400_000_000_000,
];

/// A power of two above the number of buckets, for a cheap bounds check.
const SLOTS: usize = 16;

/// Bounds as they are searched: filled up with bounds that nothing exceeds.
pub(crate) type Bounds = [u64; SLOTS];

static STATE_BOUNDS: Bounds = searchable(&STATE_BOUNDS_NS);

/// Makes `bounds` searchable.
pub(crate) const fn searchable<const BOUNDS: usize>(bounds: &[u64; BOUNDS]) -> Bounds {
    assert!(BOUNDS < SLOTS);
    let mut searchable = [i64::MAX as u64; SLOTS];
    let mut index = 0;
    while index < BOUNDS {
        searchable[index] = bounds[index];
        index += 1;
    }
    searchable
}

/// A state whose duration is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TimedState {
    /// Until the peer answers, or nobody does.
    SynSent = 0,
    /// Until the peer acknowledges the FIN.
    FinWait1 = 1,
    /// Until the process at the other end closes too.
    FinWait2 = 2,
    /// Until the process at this end closes too.
    CloseWait = 3,
    /// Until the peer acknowledges the FIN that crossed its own.
    Closing = 4,
    /// Until the peer acknowledges the FIN that came second.
    LastAck = 5,
}

impl TimedState {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::SynSent,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::Closing,
        Self::LastAck,
    ];

    /// The number of the timed state that `state` is, [`NOT_TIMED`](Self::NOT_TIMED) where it is
    /// none. Looked up in a constant of four bits for each state, and not by a `match`: of that the
    /// compiler would make as many copies of what follows as there are states.
    #[inline(always)]
    #[must_use]
    pub const fn number_of(state: TcpState) -> u64 {
        (Self::NUMBERS >> (state as u32 * 4)) & Self::NOT_TIMED
    }

    /// What [`number_of`](Self::number_of) says of a state that is not timed.
    pub const NOT_TIMED: u64 = 15;

    const NUMBERS: u64 = {
        let mut numbers = u64::MAX;
        let mut index = 0;
        while index < Self::ALL.len() {
            let shift = Self::ALL[index].state() as u32 * 4;
            numbers &= !(15 << shift);
            numbers |= (index as u64) << shift;
            index += 1;
        }
        numbers
    };

    /// The state.
    #[must_use]
    pub const fn state(self) -> TcpState {
        match self {
            Self::SynSent => TcpState::SynSent,
            Self::FinWait1 => TcpState::FinWait1,
            Self::FinWait2 => TcpState::FinWait2,
            Self::CloseWait => TcpState::CloseWait,
            Self::Closing => TcpState::Closing,
            Self::LastAck => TcpState::LastAck,
        }
    }

    /// Where it stands in [`StateDurations`].
    #[must_use]
    pub const fn slot(self) -> usize {
        self as usize
    }
}

/// A power of two that is at least the number of timed states.
const STATES: usize = 8;

/// How long sockets stayed in each state, on one CPU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct StateDurations {
    /// By [`TimedState`].
    pub of: [Durations; STATES],
}

impl StateDurations {
    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        for (durations, other) in self.of.iter_mut().zip(&other.of) {
            durations.add(other);
        }
    }

    /// Counts how long one socket was in the state with this number; [`UNKNOWN`] where that is not
    /// known.
    #[inline(always)]
    pub fn observe(&mut self, number: u64, nanoseconds: u64) {
        let durations = self.of_number(number);
        if nanoseconds == UNKNOWN {
            durations.unknown += 1;
        } else {
            durations.observe(nanoseconds, &STATE_BOUNDS);
        }
    }

    /// A beginning of the state with this number took the place of another.
    #[inline(always)]
    pub fn displace(&mut self, number: u64) {
        self.of_number(number).displaced += 1;
    }

    #[inline(always)]
    fn of_number(&mut self, number: u64) -> &mut Durations {
        &mut self.of[masked(number, STATES)]
    }
}

/// A duration that is not known.
pub const UNKNOWN: u64 = u64::MAX;

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
    pub(crate) fn observe(&mut self, nanoseconds: u64, bounds: &Bounds) {
        self.count[bucket(nanoseconds, bounds)] += 1;
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

/// How many of `bounds` are below `nanoseconds`. A binary search without branches: to the verifier
/// each would double the paths.
#[inline(always)]
fn bucket(nanoseconds: u64, bounds: &Bounds) -> usize {
    // The sign of a difference; both are far below 2^63.
    let is_above = |index: u64| bounds[masked(index, SLOTS)].wrapping_sub(nanoseconds) >> 63;
    let mut below = is_above(7) << 3;
    below += is_above(below + 3) << 2;
    below += is_above(below + 1) << 1;
    below += is_above(below);
    masked(below, SLOTS)
}

/// `number`, which is below `size`, a power of two, as an index. The mask is for the verifier, and
/// has to be right before the use: the compiler, which knows that it changes nothing, would drop
/// it, and the verifier of Linux 5.10 forgets what it knows of a number that goes to the stack.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the mask comes after it")]
fn masked(number: u64, size: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    let number = core::hint::black_box(number);
    number as usize & (size - 1)
}

const _: () = {
    assert!(size_of::<Durations>() == 152);
    assert!(size_of::<StateDurations>() == 1216);
    assert!(TimedState::ALL.len() <= STATES);
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
            (1_000_000_000, 8),
            (1_000_000_001, 9),
            (86_400_000_000_000, 14),
            (86_400_000_000_001, 15),
            (u64::MAX / 4, 15),
        ] {
            let mut durations = Durations::default();
            durations.observe(nanoseconds, &STATE_BOUNDS);
            assert_eq!(durations.count[bucket], 1, "{nanoseconds} ns");
            assert_eq!(durations.observed(), 1);
            assert_eq!(durations.sum_ns, nanoseconds);
        }
    }

    #[test]
    fn the_search_finds_what_counting_finds() {
        let few = searchable(&[10, 20, 30]);
        for (bounds, searched) in [
            (&STATE_BOUNDS_NS[..], &STATE_BOUNDS),
            (&[10, 20, 30][..], &few),
        ] {
            for bound in bounds {
                for nanoseconds in [bound - 1, *bound, bound + 1] {
                    let below = bounds.iter().filter(|bound| **bound < nanoseconds);
                    assert_eq!(bucket(nanoseconds, searched), below.count());
                }
            }
        }
    }

    #[test]
    fn bounds_rise() {
        assert!(STATE_BOUNDS_NS.is_sorted());
    }

    #[test]
    fn each_state_has_durations_of_its_own() {
        let mut all = StateDurations::default();
        for (number, state) in (0..).zip(TimedState::ALL) {
            assert_eq!(TimedState::number_of(state.state()), number);
            all.observe(number, number);
            all.observe(number, UNKNOWN);
            all.displace(number);
        }
        for (number, state) in (0..).zip(TimedState::ALL) {
            let durations = all.of[state.slot()];
            assert_eq!((durations.observed(), durations.unknown), (1, 1));
            assert_eq!(durations.displaced, 1);
            assert_eq!(durations.sum_ns, number);
        }
        let others = TcpState::ALL
            .into_iter()
            .filter(|state| TimedState::number_of(*state) == TimedState::NOT_TIMED);
        assert_eq!(others.count(), 6);
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
