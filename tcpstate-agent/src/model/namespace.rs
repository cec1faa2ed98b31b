//! The model of one network namespace.

use std::time::{Duration, Instant};

use tcpstate_common::{Family, NamespaceCounters, SocketCounts, TcpState};

use super::{Census, Minisockets, Offset};
use crate::netns::SockStat;

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
    /// How long it took.
    pub took: Duration,
    /// Transitions on the whole machine that the live counters had missed when it began.
    pub missed: u64,
    /// What the kernel said of the namespace before it began.
    pub stat: SockStat,
}

/// What is known of the sockets of one namespace.
#[derive(Clone, Debug)]
pub struct NamespaceModel {
    offsets: [[Offset; FLOWING.len()]; 2],
    half_open: [u64; 2],
    minisockets: Minisockets,
    at_pass: NamespaceCounters,
    counted_at: Instant,
    pass_took: Duration,
    missed: u64,
    stat: SockStat,
    unknown: u64,
    /// The last snapshot made the model much better; another one may too.
    is_improving: bool,
}

/// A snapshot that leaves more sockets uncertain than one in so many is worth repeating.
const DISTURBED_PART: u64 = 100;
/// Unless they are so few.
const DISTURBED_SOCKETS: u64 = 16;

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
            pass_took: pass.took,
            missed: pass.missed,
            stat: pass.stat,
            unknown: pass.counts.unknown,
            is_improving: true,
        }
    }

    /// Learns from another snapshot.
    pub fn correct(&mut self, pass: &Pass) {
        let before = self.offsets_uncertain();
        let mut new = Self::new(pass);
        // Each transition that was missed, in whichever namespace, may have changed an offset by
        // one; those missed during this walk count at the next. While there were no live counters
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
        self.is_improving = self.offsets_uncertain() <= before / 2;
    }

    /// Whether a snapshot now would find what the last one found: no transition was counted or
    /// missed, no segment came that could have half opened a connection, and nothing is there
    /// that ends by itself.
    #[must_use]
    pub fn still_holds(&self, now: &NamespaceCounters, stat: SockStat, missed: u64) -> bool {
        has_live_counters(now)
            && self.at_pass == *now
            && self.stat == stat
            && self.missed == missed
            && self.half_open() == 0
            && self.uncertain(now) == 0
    }

    /// Takes note that the last snapshot still holds.
    pub const fn confirm(&mut self, at: Instant) {
        self.counted_at = at;
    }

    /// Whether so much moved during the last snapshot that another one should follow at once.
    /// Where one after the other is as bad, the namespace is just busy, and haste does not help.
    #[must_use]
    pub fn was_disturbed(&self, now: &NamespaceCounters) -> bool {
        let tolerable = self.census(now, None).total() / DISTURBED_PART;
        has_live_counters(now)
            && self.is_improving
            && self.uncertain(now) > tolerable.max(DISTURBED_SOCKETS)
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

    /// Whether there can be minisockets when the live counters are at `now`: none can come
    /// without a transition, where those are counted.
    #[must_use]
    pub fn may_have_minisockets(&self, now: &NamespaceCounters) -> bool {
        !has_live_counters(now) || self.minisockets.with_made(&self.at_pass, now).total() > 0
    }

    /// How many sockets are in `state` when the live counters are at `now`, where that is exactly
    /// known. For states of full sockets.
    #[must_use]
    pub fn exactly(&self, state: TcpState, now: &NamespaceCounters) -> Option<u64> {
        let place = FLOWING.iter().position(|flowing| *flowing == state)?;
        let mut of_families = self.offsets.iter();
        let is_exact = has_live_counters(now)
            && of_families.all(|of_family| of_family[place].uncertainty() == 0);
        is_exact.then(|| self.census(now, None).in_state(state))
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

    /// Sockets of a family or in a state that the program does not know, which are in no gauge.
    #[must_use]
    pub const fn unknown(&self) -> u64 {
        self.unknown
    }

    /// When the last snapshot ended.
    #[must_use]
    pub const fn counted_at(&self) -> Instant {
        self.counted_at
    }

    /// How long the last snapshot took.
    #[must_use]
    pub const fn pass_took(&self) -> Duration {
        self.pass_took
    }
}

/// Whether the counters are those of a namespace, and not the zeros of one that has none.
const fn has_live_counters(counters: &NamespaceCounters) -> bool {
    counters.namespace != 0
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
            took: Duration::from_millis(2),
            missed: 0,
            stat: SockStat::default(),
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
            namespace: 1,
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
        assert!(model.may_have_minisockets(&none));
        assert!(!model.still_holds(&none, SockStat::default(), 0));
    }

    #[test]
    fn a_snapshot_holds_as_long_as_nothing_can_have_changed() {
        let quiet = live();
        let told = SockStat {
            in_use: 1,
            minisockets: 2,
            segments_in: 100,
        };
        let first = Pass {
            stat: told,
            ..pass(&found(Family::Ipv4, TcpState::Listen, 1), &quiet, &quiet)
        };
        let model = NamespaceModel::new(&first);
        assert!(model.still_holds(&quiet, told, 0));
        let mut moved = quiet;
        moved.record(Family::Ipv4, TcpState::Listen, TcpState::SynRecv);
        assert!(!model.still_holds(&moved, told, 0));
        assert!(!model.still_holds(&quiet, told, 1));
        for changed in [
            SockStat {
                minisockets: 1,
                ..told
            },
            SockStat { in_use: 2, ..told },
            SockStat {
                segments_in: 101,
                ..told
            },
        ] {
            assert!(!model.still_holds(&quiet, changed, 0), "{changed:?}");
        }
        let half_open = Pass {
            stat: told,
            ..pass(
                &found(Family::Ipv4, TcpState::NewSynRecv, 1),
                &quiet,
                &quiet,
            )
        };
        assert!(!NamespaceModel::new(&half_open).still_holds(&quiet, told, 0));
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
        assert_eq!(model.exactly(TcpState::Established, &after), None);
        // There were none before, and then ten came.
        assert_eq!(model.exactly(TcpState::CloseWait, &after), Some(10));
        let mut counts = found(Family::Ipv4, TcpState::Established, 90);
        counts.by_state[0][TcpState::CloseWait.slot()] = 10;
        model.correct(&pass(&counts, &after, &after));
        assert_eq!(model.uncertain(&after), 0);
        assert_eq!(model.exactly(TcpState::CloseWait, &after), Some(10));
        assert_eq!(model.exactly(TcpState::Established, &after), Some(90));
        assert_eq!(
            model
                .census(&after, Some(0))
                .get(Family::Ipv4, TcpState::Established),
            90
        );
    }
}
