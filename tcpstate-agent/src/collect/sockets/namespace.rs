//! The model of one network namespace.

use std::time::Instant;

use tcpstate_common::{Family, NamespaceCounters, TcpState};

use super::{Census, Minisockets, Offset};
use crate::collect::SocketCounts;

/// The states whose sockets pass the tracepoint on every way in and out.
const FLOWING: [TcpState; 9] = [
    TcpState::Listen,
    TcpState::SynSent,
    TcpState::SynRecv,
    TcpState::Established,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::CloseWait,
    TcpState::Closing,
    TcpState::LastAck,
];

/// A finished snapshot of one namespace.
#[derive(Clone, Debug)]
pub struct Pass {
    /// What it found.
    pub counts: SocketCounts,
    /// The live counters before it began.
    pub before: NamespaceCounters,
    /// The live counters after it ended.
    pub after: NamespaceCounters,
    /// When it ended.
    pub at: Instant,
    /// Transitions on the whole machine that the live counters had missed when it began.
    pub missed: u64,
}

impl Pass {
    /// Half-open connections.
    #[must_use]
    pub fn half_open(&self) -> u64 {
        self.counts.half_open_sockets()
    }

    /// Whether what was found is what the kernel says itself, full sockets and minisockets, give or
    /// take what moved meanwhile. It said `before` and, where the namespace was still there,
    /// `after`.
    #[must_use]
    pub fn agrees_with(&self, before: (u64, u64), after: Option<(u64, u64)>) -> bool {
        if !has_live_counters(&self.before) {
            // It is not known what moved.
            return true;
        }
        let Some(after) = after else {
            return true;
        };
        let moved = moved(&self.before, &self.after);
        let is_within = |found: u64, before: u64, after: u64| {
            let low = before.min(after).saturating_sub(moved);
            (low..=before.max(after) + moved).contains(&found)
        };
        is_within(self.counts.full(), before.0, after.0)
            && is_within(self.counts.minisockets(), before.1, after.1)
    }
}

/// Transitions between two readings of the live counters.
fn moved(before: &NamespaceCounters, after: &NamespaceCounters) -> u64 {
    let flows = |counters: &NamespaceCounters| {
        let of_families = counters.flow.into_iter().flatten();
        of_families.fold((0_u32, 0_u32), |(entered, left), flow| {
            (
                entered.wrapping_add(flow.entered),
                left.wrapping_add(flow.left),
            )
        })
    };
    let (before, after) = (flows(before), flows(after));
    u64::from(after.0.wrapping_sub(before.0)) + u64::from(after.1.wrapping_sub(before.1))
}

/// A network namespace, and not another that has its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId {
    /// Inode number.
    pub inode: u32,
    /// What no other namespace ever has; `None` before Linux 5.12.
    pub cookie: Option<u64>,
}

/// What is known of the sockets of one namespace.
#[derive(Clone, Debug)]
pub struct NamespaceModel {
    offsets: [[Offset; FLOWING.len()]; 2],
    half_open: [u64; 2],
    minisockets: Minisockets,
    at_pass: NamespaceCounters,
    counted_at: Instant,
    missed: u64,
}

impl NamespaceModel {
    /// The model after its first snapshot.
    #[must_use]
    pub fn new(pass: &Pass) -> Self {
        Self {
            offsets: measure(pass),
            half_open: half_open(&pass.counts),
            minisockets: Minisockets::counted(&pass.counts),
            at_pass: pass.after,
            counted_at: pass.at,
            missed: pass.missed,
        }
    }

    /// The model of one whose live counters, now at `live`, hold everything since it began. When
    /// `missed` was read, it had not.
    #[must_use]
    pub fn since_it_began(live: &NamespaceCounters, at: Instant, missed: u64) -> Self {
        let beginning = NamespaceCounters {
            net: live.net,
            ..NamespaceCounters::ZERO
        };
        Self::new(&Pass {
            counts: SocketCounts::default(),
            before: beginning,
            after: beginning,
            at,
            missed,
        })
    }

    /// Learns from another snapshot.
    pub fn correct(&mut self, pass: &Pass) {
        let mut new = Self::new(pass);
        // Each transition that was missed, in whichever namespace, may have changed an offset by
        // one; those missed during this pass count at the next. While there were no live counters
        // any may have, and where it is not known how many were missed: then what was known is
        // worth nothing.
        if let Some(missed) = pass.missed.checked_sub(self.missed)
            && has_live_counters(&self.at_pass)
        {
            for (new, known) in new.offsets.iter_mut().zip(&self.offsets) {
                for (new, known) in new.iter_mut().zip(known) {
                    *new = known.widened_by(missed).narrowed_by(*new);
                }
            }
        }
        *self = new;
    }

    /// The live counters at the end of the last snapshot.
    #[must_use]
    pub const fn at_pass(&self) -> &NamespaceCounters {
        &self.at_pass
    }

    /// The sockets there are when the live counters are at `now` and the kernel counts
    /// `minisockets`, or an unknown number of them, with the half-open connections of the last
    /// snapshot.
    #[must_use]
    pub fn census(&self, now: &NamespaceCounters, minisockets: Option<u64>) -> Census {
        self.census_with(now, minisockets, self.half_open)
    }

    /// The same, with the half-open connections of each family that listening sockets have now.
    #[must_use]
    pub fn census_with(
        &self,
        now: &NamespaceCounters,
        minisockets: Option<u64>,
        half_open: [u64; 2],
    ) -> Census {
        let mut census = Census::default();
        for family in Family::ALL {
            let slot = family.slot();
            for (state, offset) in FLOWING.into_iter().zip(&self.offsets[slot]) {
                let flow = now.flow[slot][state.slot()];
                census.add(family, state, offset.gauge(flow));
            }
            census.add(family, TcpState::SynRecv, half_open[slot]);
        }
        self.minisockets(now, minisockets).add_to(&mut census);
        census
    }

    /// The minisockets there are when the live counters are at `now` and the kernel counts `total`
    /// of them, or an unknown number.
    #[must_use]
    pub fn minisockets(&self, now: &NamespaceCounters, total: Option<u64>) -> Minisockets {
        let made = self.minisockets.with_made(&self.at_pass, now);
        total.map_or(made, |total| made.scaled_to(total))
    }

    /// How many sockets can at most be shown in a wrong state when the live counters are at
    /// `now`. Without live counters that is all of them.
    #[must_use]
    pub fn uncertain(&self, now: &NamespaceCounters) -> u64 {
        if has_live_counters(now) {
            self.offsets_uncertain()
        } else {
            self.census(now, None).total()
        }
    }

    fn offsets_uncertain(&self) -> u64 {
        self.offsets
            .iter()
            .flatten()
            .map(|offset| offset.uncertainty())
            .sum()
    }

    /// Half-open connections at the last snapshot.
    #[must_use]
    pub fn half_open(&self) -> u64 {
        self.half_open.iter().sum()
    }

    /// Whether anything happened since the last snapshot that only another one can tell in full.
    #[must_use]
    pub fn has_changed(&self, now: &NamespaceCounters) -> bool {
        !has_live_counters(now) || self.at_pass != *now
    }

    /// Transitions since the last snapshot.
    #[must_use]
    pub fn moved_since(&self, now: &NamespaceCounters) -> u64 {
        if has_live_counters(&self.at_pass) && has_live_counters(now) {
            moved(&self.at_pass, now) / 2
        } else {
            0
        }
    }

    /// When the last snapshot ended.
    #[must_use]
    pub const fn counted_at(&self) -> Instant {
        self.counted_at
    }
}

/// Whether the counters are those of a namespace, and not the zeros of one that has none.
const fn has_live_counters(counters: &NamespaceCounters) -> bool {
    counters.net != 0
}

fn measure(pass: &Pass) -> [[Offset; FLOWING.len()]; 2] {
    Family::ALL.map(|family| {
        let slot = family.slot();
        FLOWING.map(|state| {
            Offset::measured(
                pass.counts.by_state[slot][state.slot()],
                pass.before.flow[slot][state.slot()],
                pass.after.flow[slot][state.slot()],
            )
        })
    })
}

fn half_open(counts: &SocketCounts) -> [u64; 2] {
    Family::ALL.map(|family| counts.by_state[family.slot()][TcpState::NewSynRecv.slot()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(counts: &SocketCounts, before: &NamespaceCounters, after: &NamespaceCounters) -> Pass {
        Pass {
            counts: *counts,
            before: *before,
            after: *after,
            at: Instant::now(),
            missed: 0,
        }
    }

    fn found(family: Family, state: TcpState, count: u64) -> SocketCounts {
        let mut counts = SocketCounts::default();
        counts.by_state[family.slot()][state.slot()] = count;
        counts
    }

    /// The counters of a namespace that has some.
    fn live() -> NamespaceCounters {
        NamespaceCounters {
            net: 1,
            ..NamespaceCounters::default()
        }
    }

    #[test]
    fn without_live_counters_nothing_is_certain() {
        let none = NamespaceCounters::default();
        let model = NamespaceModel::new(&pass(
            &found(Family::Ipv4, TcpState::Established, 3),
            &none,
            &none,
        ));
        assert_eq!(model.uncertain(&none), 3);
        assert!(model.has_changed(&none));
    }

    #[test]
    fn uncertainty_is_what_moved_during_the_first_snapshot_and_goes_with_a_quiet_one() {
        let before = live();
        let mut after = before;
        for _ in 0..10 {
            after.record(Family::Ipv4, TcpState::Established, TcpState::CloseWait);
        }
        let mut model = NamespaceModel::new(&pass(
            &found(Family::Ipv4, TcpState::Established, 95),
            &before,
            &after,
        ));
        assert!(model.uncertain(&after) > 0);
        // There were none before, and then ten came.
        assert_eq!(model.census(&after, None).in_state(TcpState::CloseWait), 10);
        let mut counts = found(Family::Ipv4, TcpState::Established, 90);
        counts.by_state[0][TcpState::CloseWait.slot()] = 10;
        model.correct(&pass(&counts, &after, &after));
        assert_eq!(model.uncertain(&after), 0);
        let census = model.census(&after, Some(0));
        assert_eq!(census.in_state(TcpState::CloseWait), 10);
        assert_eq!(census.in_state(TcpState::Established), 90);
    }

    #[test]
    fn what_is_found_agrees_with_the_kernel_give_or_take_what_moved() {
        let quiet = live();
        let mut counts = found(Family::Ipv4, TcpState::Established, 5);
        counts.by_state[1][TcpState::TimeWait.slot()] = 2;
        counts.fin_wait2_mini[0] = 1;
        counts.by_state[0][TcpState::NewSynRecv.slot()] = 9;
        let found = |after| pass(&counts, &quiet, &after);
        assert!(found(quiet).agrees_with((5, 3), Some((5, 3))));
        assert!(found(quiet).agrees_with((4, 2), Some((6, 4))));
        for wrong in [(4, 3), (6, 3), (5, 2), (5, 4)] {
            assert!(!found(quiet).agrees_with(wrong, Some(wrong)), "{wrong:?}");
        }
        let mut moved = quiet;
        moved.record(Family::Ipv4, TcpState::Established, TcpState::Close);
        assert!(found(moved).agrees_with((6, 3), Some((6, 3))));
        // Of one that is gone, or without counters, nothing can be said.
        assert!(found(quiet).agrees_with((9, 9), None));
        let none = NamespaceCounters::default();
        assert!(pass(&counts, &none, &none).agrees_with((9, 9), Some((9, 9))));
    }

    #[test]
    fn of_one_that_is_counted_since_it_began_all_is_known_before_a_snapshot() {
        let mut now = live();
        now.record(Family::Ipv4, TcpState::Close, TcpState::Listen);
        now.record(Family::Ipv4, TcpState::Listen, TcpState::SynRecv);
        now.record(Family::Ipv4, TcpState::SynRecv, TcpState::Established);
        let mut model = NamespaceModel::since_it_began(&now, Instant::now(), 0);
        let census = model.census(&now, Some(2));
        assert_eq!(census.in_state(TcpState::Listen), 1);
        assert_eq!(census.in_state(TcpState::Established), 1);
        assert_eq!(census.in_state(TcpState::TimeWait), 2);
        assert_eq!(model.uncertain(&now), 0);
        assert!(model.has_changed(&now), "a snapshot has more to say");
        // Should it know less than was thought, the snapshot is right.
        let mut counts = found(Family::Ipv4, TcpState::Established, 4);
        counts.by_state[0][TcpState::Listen.slot()] = 1;
        model.correct(&pass(&counts, &now, &now));
        assert_eq!(model.census(&now, None).in_state(TcpState::Established), 4);
    }

    #[test]
    fn sockets_older_than_the_counters_move_with_them() {
        let quiet = live();
        let model = NamespaceModel::new(&pass(
            &found(Family::Ipv4, TcpState::Established, 3),
            &quiet,
            &quiet,
        ));
        let mut now = quiet;
        now.record(Family::Ipv4, TcpState::Established, TcpState::CloseWait);
        let census = model.census(&now, Some(0));
        assert_eq!(census.get(Family::Ipv4, TcpState::Established), 2);
        assert_eq!(census.get(Family::Ipv4, TcpState::CloseWait), 1);
        assert_eq!(census.total(), 3);
    }

    #[test]
    fn an_accepted_child_leaves_its_listener_where_it_is() {
        let quiet = live();
        let model = NamespaceModel::new(&pass(
            &found(Family::Ipv6, TcpState::Listen, 1),
            &quiet,
            &quiet,
        ));
        let mut now = quiet;
        now.record(Family::Ipv6, TcpState::Listen, TcpState::SynRecv);
        now.record(Family::Ipv6, TcpState::SynRecv, TcpState::Established);
        let census = model.census(&now, Some(0));
        assert_eq!(census.get(Family::Ipv6, TcpState::Listen), 1);
        assert_eq!(census.get(Family::Ipv6, TcpState::SynRecv), 0);
        assert_eq!(census.get(Family::Ipv6, TcpState::Established), 1);
        now.record(Family::Ipv6, TcpState::Listen, TcpState::Close);
        assert_eq!(model.census(&now, Some(0)).in_state(TcpState::Listen), 0);
    }

    #[test]
    fn half_open_connections_and_full_sockets_in_syn_recv_are_one_state() {
        let quiet = live();
        let mut counts = found(Family::Ipv4, TcpState::NewSynRecv, 5);
        counts.by_state[0][TcpState::SynRecv.slot()] = 2;
        let model = NamespaceModel::new(&pass(&counts, &quiet, &quiet));
        let census = model.census(&quiet, Some(0));
        assert_eq!(census.get(Family::Ipv4, TcpState::SynRecv), 7);
    }

    #[test]
    fn full_and_mini_sockets_in_fin_wait2_are_one_state() {
        let quiet = live();
        let mut counts = found(Family::Ipv4, TcpState::FinWait2, 2);
        counts.fin_wait2_mini[0] = 3;
        let model = NamespaceModel::new(&pass(&counts, &quiet, &quiet));
        assert_eq!(
            model
                .census(&quiet, Some(3))
                .get(Family::Ipv4, TcpState::FinWait2),
            5
        );
        assert_eq!(
            model
                .census(&quiet, Some(0))
                .get(Family::Ipv4, TcpState::FinWait2),
            2
        );
    }

    #[test]
    fn what_was_known_is_widened_when_a_transition_was_missed() {
        let quiet = live();
        let ten = found(Family::Ipv4, TcpState::Established, 10);
        let mut model = NamespaceModel::new(&pass(&ten, &quiet, &quiet));
        // One is closed, unseen; and during the next snapshot one comes and one goes.
        let mut after = quiet;
        after.record(Family::Ipv4, TcpState::SynSent, TcpState::Established);
        after.record(Family::Ipv4, TcpState::Established, TcpState::CloseWait);
        let nine = found(Family::Ipv4, TcpState::Established, 9);
        let disturbed = Pass {
            missed: 1,
            ..pass(&nine, &quiet, &after)
        };
        model.correct(&disturbed);
        let established = |model: &NamespaceModel| {
            model
                .census(&after, Some(0))
                .get(Family::Ipv4, TcpState::Established)
        };
        assert_eq!(established(&model), 9);
        assert!(model.uncertain(&after) > 0);
    }

    #[test]
    fn one_missed_transition_does_not_spoil_an_exact_model_in_a_storm() {
        let quiet = live();
        let many = found(Family::Ipv4, TcpState::Established, 50_000);
        let mut model = NamespaceModel::new(&pass(&many, &quiet, &quiet));
        // Half of them are closed during the next snapshot, which happens to see none of those.
        let mut after = quiet;
        for _ in 0..25_000 {
            after.record(Family::Ipv4, TcpState::Established, TcpState::CloseWait);
        }
        let half = found(Family::Ipv4, TcpState::Established, 25_000);
        model.correct(&Pass {
            missed: 1,
            ..pass(&half, &quiet, &after)
        });
        let census = model.census(&after, Some(0));
        for state in [TcpState::Established, TcpState::CloseWait] {
            assert!(census.get(Family::Ipv4, state).abs_diff(25_000) <= 1);
        }
        // At most one in each state, of each family.
        assert!(model.uncertain(&after) <= 18, "{}", model.uncertain(&after));
    }

    #[test]
    fn what_was_known_is_forgotten_when_what_was_missed_is_not_known() {
        let quiet = live();
        let ten = found(Family::Ipv4, TcpState::Established, 10);
        let mut model = NamespaceModel::new(&Pass {
            missed: 1,
            ..pass(&ten, &quiet, &quiet)
        });
        let mut after = quiet;
        after.record(Family::Ipv4, TcpState::Established, TcpState::CloseWait);
        let five = found(Family::Ipv4, TcpState::Established, 5);
        // It could not be read.
        model.correct(&pass(&five, &quiet, &after));
        let census = model.census(&after, Some(0));
        assert!(census.get(Family::Ipv4, TcpState::Established) <= 5);
    }

    #[test]
    fn what_was_known_without_live_counters_is_forgotten_when_there_are_some() {
        let blind = NamespaceCounters::default();
        let ten = found(Family::Ipv4, TcpState::Established, 10);
        let mut model = NamespaceModel::new(&pass(&ten, &blind, &blind));
        // One is closed, unseen; then counters are made, and the next snapshot is disturbed.
        let before = live();
        let mut after = before;
        after.record(Family::Ipv4, TcpState::SynSent, TcpState::Established);
        after.record(Family::Ipv4, TcpState::Established, TcpState::CloseWait);
        let nine = found(Family::Ipv4, TcpState::Established, 9);
        model.correct(&pass(&nine, &before, &after));
        let census = model.census(&after, Some(0));
        assert_eq!(census.get(Family::Ipv4, TcpState::Established), 9);
        assert!(model.uncertain(&after) > 0);
    }
}
