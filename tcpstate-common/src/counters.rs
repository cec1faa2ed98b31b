//! The counters that the eBPF programs keep and the agent reads.
//!
//! All are 64-bit counts of events since the programs were loaded. They only rise; what is *now*
//! is always a difference of two of them. Per-CPU copies are summed by the agent.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    CloseCounters, Due, Ending, Family, Handshakes, OrderlyEnd, STATE_SLOTS, Stage, StateDurations,
    TcpState, due::PAIRS, verifier::masked,
};

/// State changes of all TCP sockets of the machine: `from` × `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TransitionMatrix {
    /// How often each was, by [`Due::place`].
    count: [u64; PAIRS],
}

/// What the transition program counts on one CPU for the whole machine, and what it remembers.
/// One element of one map: each lookup costs some nanoseconds of every transition.
///
/// Between two transitions the kernel handles a segment, which needs most of the first cache: each
/// line that is touched here has to be fetched. So what a connection goes through stands together:
/// the common transitions ([`Due::place`]), and behind each sum of durations those that are short.
/// The kernel aligns an element to 8 bytes only; where it does not begin with a line, it is one more
/// of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CpuCounters {
    /// Changes of state.
    pub transitions: TransitionMatrix,
    /// How connections ended.
    pub closes: CloseCounters,
    /// How long sockets were in their states.
    pub durations: StateDurations,
    /// How long handshakes took.
    pub handshakes: Handshakes,
}

/// How many sockets came into a state and how many went out of it. Wraps around; only the
/// difference of two readings means anything.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct StateFlow {
    /// Sockets that came into the state.
    pub entered: u32,
    /// Sockets that went out of the state.
    pub left: u32,
}

/// What happened to the sockets of one network namespace. Every count wraps around, as in
/// [`StateFlow`]: 32 bits keep the copies of many CPUs small.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct NamespaceCounters {
    /// What tells the namespace that these are the counters of from all others that live: the
    /// distance of its `struct net` from [`map::ORIGIN`](crate::map::ORIGIN). 0 for none.
    pub net: u64,
    /// By family: full sockets replaced by a minisocket in `TIME_WAIT`.
    pub to_time_wait: [u32; 2],
    /// By family: full sockets that left `FIN_WAIT2` before the peer's FIN came, nearly always
    /// because a minisocket in `FIN_WAIT2` replaced them.
    pub to_fin_wait2_mini: [u32; 2],
    /// By family and state. A child cloned from a listener enters `SYN_RECV` and leaves nothing:
    /// its first event says `LISTEN`, but the listener stays.
    pub flow: [[StateFlow; STATE_SLOTS]; 2],
}

impl StateFlow {
    /// Adds the counts of another CPU.
    pub const fn add(&mut self, other: &Self) {
        self.entered = self.entered.wrapping_add(other.entered);
        self.left = self.left.wrapping_add(other.left);
    }

    /// The live counter: sockets that came less sockets that went.
    #[must_use]
    pub fn live(&self) -> i64 {
        self.entered.wrapping_sub(self.left).cast_signed().into()
    }
}

impl NamespaceCounters {
    /// Those of no namespace, in which nothing has happened.
    pub const ZERO: Self = Self {
        net: 0,
        to_time_wait: [0; 2],
        to_fin_wait2_mini: [0; 2],
        flow: [[StateFlow {
            entered: 0,
            left: 0,
        }; STATE_SLOTS]; 2],
    };

    /// The element of [`map::LIVE`](crate::map::LIVE), which has `slots`, where the counters of the
    /// namespace with this key belong.
    #[inline(always)]
    #[must_use]
    pub const fn home(net: u64, slots: u32) -> u32 {
        // 2^64 divided by the golden ratio spreads neighbours; they are aligned to cache lines.
        let spread = (net >> 6).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        ((spread * slots as u64) >> 32) as u32
    }

    /// Counts one socket of `family` going from `old` to `new`.
    pub fn record(&mut self, family: Family, old: TcpState, new: TcpState) {
        let (old, new) = (old as u32, new as u32);
        self.count(family, old, new, Due::of(old, new).left());
    }

    /// Counts one socket of `family` going from the state with the kernel's number `old` to that
    /// with the number `new`; the former has `left` sockets less.
    #[inline(always)]
    pub fn count(&mut self, family: Family, old: u32, new: u32, left: u32) {
        let flow = &mut self.flow[family.slot()];
        let old = &mut flow[masked::<STATE_SLOTS>(old.into())].left;
        *old = old.wrapping_add(left);
        let new = &mut flow[masked::<STATE_SLOTS>(new.into())].entered;
        *new = new.wrapping_add(1);
    }

    /// A connection lives on as a minisocket, without any event of its own; how its full socket
    /// ended says as which.
    #[inline(always)]
    pub fn hand_over(&mut self, family: Family, ending: Ending) {
        let counts = if ending.is(Stage::ClosedFirst) || ending.is(Stage::ClosedAtOnce) {
            &mut self.to_time_wait
        } else if ending.is_handed_over() {
            &mut self.to_fin_wait2_mini
        } else {
            return;
        };
        let count = &mut counts[family.slot()];
        *count = count.wrapping_add(1);
    }

    /// The same of a connection that has left `FIN_WAIT2` in good order.
    #[inline(always)]
    pub fn leave_to_minisocket(&mut self, family: Family, end: OrderlyEnd) {
        let counts = if end.is_handed_over() {
            &mut self.to_fin_wait2_mini
        } else {
            &mut self.to_time_wait
        };
        let count = &mut counts[family.slot()];
        *count = count.wrapping_add(1);
    }

    /// What was counted since `start`.
    #[must_use]
    pub fn since(&self, start: &Self) -> Self {
        let Self {
            net,
            mut to_time_wait,
            mut to_fin_wait2_mini,
            mut flow,
        } = *self;
        for family in 0..2 {
            let of = |now: u32, start: [u32; 2]| now.wrapping_sub(start[family]);
            to_time_wait[family] = of(to_time_wait[family], start.to_time_wait);
            to_fin_wait2_mini[family] = of(to_fin_wait2_mini[family], start.to_fin_wait2_mini);
            for (flow, start) in flow[family].iter_mut().zip(&start.flow[family]) {
                flow.entered = flow.entered.wrapping_sub(start.entered);
                flow.left = flow.left.wrapping_sub(start.left);
            }
        }
        Self {
            net,
            to_time_wait,
            to_fin_wait2_mini,
            flow,
        }
    }

    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        let Self {
            net,
            to_time_wait,
            to_fin_wait2_mini,
            flow,
        } = self;
        *net = other.net;
        for family in 0..2 {
            to_time_wait[family] = to_time_wait[family].wrapping_add(other.to_time_wait[family]);
            to_fin_wait2_mini[family] =
                to_fin_wait2_mini[family].wrapping_add(other.to_fin_wait2_mini[family]);
            for (flow, other) in flow[family].iter_mut().zip(&other.flow[family]) {
                flow.add(other);
            }
        }
    }
}

/// The fate of the records meant for a ring buffer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EventCounters {
    /// Records that were due.
    pub emitted: u64,
    /// Of these, how many found the ring full.
    pub lost: u64,
    /// Transitions in namespaces for whose live counters there is no room.
    pub untracked: u64,
    /// Transitions between numbers that are no TCP state.
    pub unknown_state: u64,
}

const _: () = {
    assert!(size_of::<TransitionMatrix>() == 2048);
    assert!(size_of::<CpuCounters>() == 3792);
    assert!(size_of::<NamespaceCounters>() == 280);
    assert!(size_of::<EventCounters>() == 32);
};

impl TransitionMatrix {
    /// A matrix of zeros.
    pub const ZERO: Self = Self { count: [0; PAIRS] };

    /// Counts one change of state.
    #[inline(always)]
    pub fn record(&mut self, due: Due) {
        self.count[due.place()] += 1;
    }

    /// How often a socket went from `old` to `new`.
    #[must_use]
    pub fn of(&self, old: TcpState, new: TcpState) -> u64 {
        let due = Due::of(old as u32, new as u32);
        if due.is_transition() {
            self.count[due.place()]
        } else {
            0
        }
    }

    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        for (count, other) in self.count.iter_mut().zip(&other.count) {
            *count = count.wrapping_add(*other);
        }
    }
}

impl EventCounters {
    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        let Self {
            emitted,
            lost,
            untracked,
            unknown_state,
        } = self;
        *emitted = emitted.wrapping_add(other.emitted);
        *lost = lost.wrapping_add(other.lost);
        *untracked = untracked.wrapping_add(other.untracked);
        *unknown_state = unknown_state.wrapping_add(other.unknown_state);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::mem::offset_of;
    use std::collections::BTreeSet;

    use super::*;
    use crate::{CloseReason, Durations, RoleHandshakes, TimedState};

    /// The cache line that something at this offset is in.
    const fn line(offset: usize) -> usize {
        offset / 64
    }

    #[test]
    fn what_a_common_connection_counts_is_in_few_cache_lines() {
        let bucket = |index: usize| offset_of!(Durations, count) + index * 8;
        let durations = |state: TimedState| {
            let start = offset_of!(CpuCounters, durations) + state.slot() * size_of::<Durations>();
            // The sum, and a bucket up to 100 microseconds.
            [start + offset_of!(Durations, sum_ns), start + bucket(2)]
        };
        let handshake = |role: usize| {
            let start = offset_of!(CpuCounters, handshakes) + role;
            let start = start + offset_of!(RoleHandshakes, durations);
            [start + offset_of!(Durations, sum_ns), start + bucket(0)]
        };
        let closes = offset_of!(CpuCounters, closes);
        let end = |reason: CloseReason| {
            let count = closes + offset_of!(CloseCounters, count) + reason as usize * 8;
            [count, closes + offset_of!(CloseCounters, last_socket)]
        };
        let client = handshake(offset_of!(Handshakes, client));
        let server = handshake(offset_of!(Handshakes, server));
        // The transition itself comes on top; all common ones are in two lines.
        for (what, touched) in [
            (
                "SYN_SENT ends",
                [durations(TimedState::SynSent), client].concat(),
            ),
            ("accepted", server.to_vec()),
            ("FIN_WAIT1 ends", durations(TimedState::FinWait1).to_vec()),
            ("CLOSE_WAIT ends", durations(TimedState::CloseWait).to_vec()),
            ("FIN_WAIT2 ends", end(CloseReason::LocalFin).to_vec()),
            (
                "LAST_ACK ends",
                [durations(TimedState::LastAck), end(CloseReason::RemoteFin)].concat(),
            ),
        ] {
            let lines: BTreeSet<usize> = touched.into_iter().map(line).collect();
            let most = if what.starts_with("LAST") || what.starts_with("SYN") {
                4
            } else {
                2
            };
            assert!(lines.len() <= most, "{what}: {lines:?}");
        }
    }
}
