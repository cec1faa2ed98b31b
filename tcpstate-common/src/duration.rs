//! How long sockets stayed in a state: the buckets that the kernel side fills.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    TcpState,
    verifier::{masked, opaque},
};

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
            durations.observe(nanoseconds, &STATE_BOUNDS_NS);
        }
    }

    /// A beginning of the state with this number took the place of another.
    #[inline(always)]
    pub fn displace(&mut self, number: u64) {
        self.of_number(number).displaced += 1;
    }

    #[inline(always)]
    fn of_number(&mut self, number: u64) -> &mut Durations {
        &mut self.of[masked::<STATES>(number)]
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
    /// Sum of all durations, nanoseconds.
    pub sum_ns: u64,
    /// Durations by bucket, not cumulative; the one after the last bound is for longer ones. Right
    /// behind the sum: the short ones, of which there are most, are in its cache line.
    pub count: [u64; SLOTS],
    /// Sockets that left the state and whose beginning is not known: it was before the programs
    /// came, or was displaced.
    pub unknown: u64,
    /// Beginnings that had to make room for another socket's.
    pub displaced: u64,
}

impl Durations {
    /// Counts one duration.
    #[inline(always)]
    pub(crate) fn observe<const BOUNDS: usize>(
        &mut self,
        nanoseconds: u64,
        bounds: &[u64; BOUNDS],
    ) {
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

/// How many of `bounds` are below `nanoseconds`. Each is compared, by the sign of a difference: that
/// takes three instructions that wait for nothing and load nothing. A search has a step that waits
/// for the step before, and a branch at each would double the paths to the verifier.
#[inline(always)]
fn bucket<const BOUNDS: usize>(nanoseconds: u64, bounds: &[u64; BOUNDS]) -> usize {
    const { assert!(BOUNDS < SLOTS) }
    // Of two numbers below 2^63; longer than that nothing has lasted. If the compiler knew so too,
    // it would make a branch of each.
    let nanoseconds = opaque(nanoseconds);
    let mut below = [0; 4];
    let mut index = 0;
    while index < BOUNDS {
        below[index % 4] += bounds[index].wrapping_sub(nanoseconds) >> 63;
        index += 1;
    }
    masked::<SLOTS>((below[0] + below[1]) + (below[2] + below[3]))
}

const _: () = {
    assert!(size_of::<Durations>() == 152);
    assert!(size_of::<StateDurations>() == 1216);
    assert!(TimedState::ALL.len() <= STATES);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HANDSHAKE_BOUNDS_NS;

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
            durations.observe(nanoseconds, &STATE_BOUNDS_NS);
            assert_eq!(durations.count[bucket], 1, "{nanoseconds} ns");
            assert_eq!(durations.observed(), 1);
            assert_eq!(durations.sum_ns, nanoseconds);
        }
    }

    #[test]
    fn the_bucket_is_what_counting_finds() {
        fn check<const BOUNDS: usize>(bounds: &[u64; BOUNDS]) {
            for bound in bounds {
                for nanoseconds in [bound - 1, *bound, bound + 1] {
                    let below = bounds.iter().filter(|bound| **bound < nanoseconds);
                    assert_eq!(bucket(nanoseconds, bounds), below.count());
                }
            }
        }
        check(&STATE_BOUNDS_NS);
        check(&HANDSHAKE_BOUNDS_NS);
        check(&[10, 20, 30]);
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
