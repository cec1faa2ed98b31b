//! What is due at a transition: one table by the states before and after, so that the program in
//! the kernel looks it up and decides nothing. The pairs that every connection goes through run
//! straight on.

use crate::{STATE_SLOTS, TcpState, TimedState, verifier::masked};

/// What is due, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due(u32);

impl Due {
    /// The number of the [`TimedState`] that ends is in the last four bits, of the one that begins
    /// in the next four; [`TimedState::NOT_TIMED`] for none.
    const BEGINS: u32 = 4;
    /// A state changes.
    const TRANSITION: u32 = 1 << 8;
    /// One of the two is no state.
    const UNKNOWN: u32 = 1 << 9;
    /// The state before has one socket less. Not so where a child is cloned from its listener.
    const LEAVES: u32 = 1 << 10;
    /// There is more to do than to count it.
    const MORE: u32 = 1 << 11;
    /// A state ends or begins whose duration is measured.
    const TIMED: u32 = 1 << 12;
    /// Nothing but a segment can bring it about, so that has its date.
    const BY_SEGMENT: u32 = 1 << 13;
    /// A connection is established.
    const ESTABLISHED: u32 = 1 << 14;
    /// By a listener's child, or by both at once.
    const ACCEPTED: u32 = 1 << 15;
    /// A connection ends.
    const END: u32 = 1 << 16;
    /// A socket begins to listen, or ceases to.
    const LISTENER: u32 = 1 << 17;
    /// Where it stands in the [`TransitionMatrix`](crate::TransitionMatrix) is in the last eight bits.
    const PLACE: u32 = 24;

    /// What is due when a socket goes from the state with the kernel's number `old` to that with
    /// the number `new`.
    #[inline(always)]
    #[must_use]
    pub fn of(old: u32, new: u32) -> Self {
        if (old | new) as usize >= STATE_SLOTS {
            return Self(Self::UNKNOWN);
        }
        Self(TABLE[pair(old, new)])
    }

    /// Whether the two are different states.
    #[inline(always)]
    #[must_use]
    pub const fn is_transition(self) -> bool {
        self.0 & Self::TRANSITION != 0
    }

    /// Whether one of the two is no state.
    #[inline(always)]
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        self.0 & Self::UNKNOWN != 0
    }

    /// How many sockets the state before has lost: 1, or 0.
    #[inline(always)]
    #[must_use]
    pub const fn left(self) -> u32 {
        (self.0 / Self::LEAVES) & 1
    }

    /// Whether there is more to do than to count it.
    #[inline(always)]
    #[must_use]
    pub const fn has_more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// Whether a state ends or begins whose duration is measured.
    #[inline(always)]
    #[must_use]
    pub const fn is_timed(self) -> bool {
        self.0 & Self::TIMED != 0
    }

    /// Whether nothing but a segment brings it about.
    #[inline(always)]
    #[must_use]
    pub const fn is_by_segment(self) -> bool {
        self.0 & Self::BY_SEGMENT != 0
    }

    /// Whether a connection is established.
    #[inline(always)]
    #[must_use]
    pub const fn is_established(self) -> bool {
        self.0 & Self::ESTABLISHED != 0
    }

    /// Of one that is established: whether a listener's child is, or both sides opened it.
    #[inline(always)]
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        self.0 & Self::ACCEPTED != 0
    }

    /// Whether a connection ends.
    #[inline(always)]
    #[must_use]
    pub const fn is_end(self) -> bool {
        self.0 & Self::END != 0
    }

    /// Whether a socket begins to listen, or ceases to.
    #[inline(always)]
    #[must_use]
    pub const fn is_listener(self) -> bool {
        self.0 & Self::LISTENER != 0
    }

    /// Where it stands in the [`TransitionMatrix`](crate::TransitionMatrix).
    #[inline(always)]
    #[must_use]
    pub fn place(self) -> usize {
        masked::<PAIRS>((self.0 >> Self::PLACE).into())
    }

    /// The number of the [`TimedState`] that ends, or [`TimedState::NOT_TIMED`].
    #[inline(always)]
    #[must_use]
    pub const fn ends(self) -> u64 {
        self.0 as u64 & TimedState::NOT_TIMED
    }

    /// The number of the [`TimedState`] that begins, or [`TimedState::NOT_TIMED`].
    #[inline(always)]
    #[must_use]
    pub const fn begins(self) -> u64 {
        (self.0 >> Self::BEGINS) as u64 & TimedState::NOT_TIMED
    }

    #[expect(clippy::cast_possible_truncation, reason = "numbers of four bits")]
    const fn at(old: TcpState, new: TcpState) -> Self {
        use TcpState::{
            Close, CloseWait, Closing, Established, FinWait1, FinWait2, Listen, SynRecv, SynSent,
        };
        let (ends, begins) = (TimedState::number_of(old), TimedState::number_of(new));
        let is_timed = ends & begins != TimedState::NOT_TIMED;
        let is_established = matches!(new, Established);
        let is_listener = matches!(new, Listen) || matches!((old, new), (Listen, Close));
        let is_end = matches!(new, Close) && !is_listener;
        let is_by_segment = matches!(
            (old, new),
            (Established | SynRecv, CloseWait) | (FinWait1, FinWait2 | Closing)
        );
        let mut word = ends as u32 | (begins as u32) << Self::BEGINS | Self::TRANSITION;
        let flags = [
            (!matches!((old, new), (Listen, SynRecv)), Self::LEAVES),
            (is_timed, Self::TIMED),
            (is_by_segment, Self::BY_SEGMENT),
            (is_established, Self::ESTABLISHED),
            (is_established && !matches!(old, SynSent), Self::ACCEPTED),
            (is_end, Self::END),
            (is_listener, Self::LISTENER),
            (
                is_timed || is_established || is_end || is_listener,
                Self::MORE,
            ),
        ];
        let mut index = 0;
        while index < flags.len() {
            if flags[index].0 {
                word |= flags[index].1;
            }
            index += 1;
        }
        Self(word | (place(old, new) as u32) << Self::PLACE)
    }
}

/// What a connection goes through with both of its ends, in its order.
const COMMON: [(TcpState, TcpState); 10] = {
    use TcpState::{
        Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    };
    [
        (Close, SynSent),
        (SynSent, Established),
        (Listen, SynRecv),
        (SynRecv, Established),
        (Established, FinWait1),
        (Established, CloseWait),
        (FinWait1, FinWait2),
        (FinWait2, Close),
        (CloseWait, LastAck),
        (LastAck, Close),
    ]
};

/// Where a pair of states is counted. What is common stands together, in the first two cache lines
/// and not in ten: in the places of pairs whose first state has the number 0, which there is none of.
const fn place(old: TcpState, new: TcpState) -> usize {
    let mut index = 0;
    while index < COMMON.len() {
        let (from, to) = COMMON[index];
        if from as u8 == old as u8 && to as u8 == new as u8 {
            return index;
        }
        index += 1;
    }
    (old as usize) << 4 | new as usize
}

/// Pairs of states.
pub(crate) const PAIRS: usize = STATE_SLOTS * STATE_SLOTS;

/// Where a pair stands in a table of [`PAIRS`].
#[inline(always)]
pub(crate) fn pair(old: u32, new: u32) -> usize {
    masked::<PAIRS>(u64::from(old) << 4 | u64::from(new))
}

static TABLE: [u32; PAIRS] = {
    let mut table = [Due::UNKNOWN; PAIRS];
    let mut old = 0;
    while old < TcpState::ALL.len() {
        let mut new = 0;
        while new < TcpState::ALL.len() {
            let (from, to) = (TcpState::ALL[old], TcpState::ALL[new]);
            // close() after shutdown() sets the state that it has already: nothing is due.
            table[(from as usize) << 4 | to as usize] =
                if old == new { 0 } else { Due::at(from, to).0 };
            new += 1;
        }
        old += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use TcpState::{
        Close, CloseWait, Closing, Established, FinWait1, FinWait2, Listen, SynRecv, SynSent,
    };

    fn due(old: TcpState, new: TcpState) -> Due {
        Due::of(old as u32, new as u32)
    }

    #[test]
    fn what_is_no_state_is_unknown_and_the_same_state_is_nothing() {
        for old in 0..20 {
            for new in 0..20 {
                let due = Due::of(old, new);
                let is_known = (1..=12).contains(&old) && (1..=12).contains(&new);
                assert_eq!(due.is_unknown(), !is_known, "{old} {new}");
                assert_eq!(due.is_transition(), is_known && old != new, "{old} {new}");
            }
        }
        assert!(Due::of(u32::MAX, 1).is_unknown());
    }

    #[test]
    fn each_state_is_timed_when_it_ends_and_when_it_begins() {
        for old in TcpState::ALL {
            for new in TcpState::ALL.into_iter().filter(|new| *new != old) {
                let due = due(old, new);
                assert_eq!(due.ends(), TimedState::number_of(old));
                assert_eq!(due.begins(), TimedState::number_of(new));
                let is_timed = due.ends() & due.begins() != TimedState::NOT_TIMED;
                assert_eq!(due.is_timed(), is_timed, "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn every_pair_has_a_place_of_its_own_and_the_common_ones_are_in_two_cache_lines() {
        let mut taken = [false; PAIRS];
        for old in TcpState::ALL {
            for new in TcpState::ALL.into_iter().filter(|new| *new != old) {
                let place = due(old, new).place();
                assert!(!taken[place], "{old:?} {new:?}");
                taken[place] = true;
            }
        }
        for (old, new) in COMMON {
            assert!(due(old, new).place() < 2 * 64 / size_of::<u64>());
        }
    }

    #[test]
    fn a_child_leaves_its_listener_where_it_is() {
        assert_eq!(due(Listen, SynRecv).left(), 0);
        assert!(!due(Listen, SynRecv).has_more());
        assert_eq!(due(Listen, Close).left(), 1);
        assert_eq!(due(SynRecv, Established).left(), 1);
    }

    #[test]
    fn only_what_nothing_but_a_segment_brings_about_is_dated_by_it() {
        for old in TcpState::ALL {
            for new in TcpState::ALL {
                let expected = matches!(
                    (old, new),
                    // tcp_fin(), and tcp_rcv_state_process()
                    (Established | SynRecv, CloseWait) | (FinWait1, Closing | FinWait2)
                );
                assert_eq!(due(old, new).is_by_segment(), expected, "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn ends_are_those_of_connections_and_a_listener_has_none() {
        for old in TcpState::ALL.into_iter().filter(|old| *old != Close) {
            assert_eq!(due(old, Close).is_end(), old != Listen, "{old:?}");
            assert_eq!(due(old, Close).is_listener(), old == Listen, "{old:?}");
        }
        assert!(due(Close, Listen).is_listener());
        assert!(due(SynSent, Established).is_established());
        assert!(!due(SynSent, Established).is_accepted());
        assert!(due(SynRecv, Established).is_accepted());
    }
}
