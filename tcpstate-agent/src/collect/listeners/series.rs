//! Which listeners get series of their own.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use rustc_hash::FxHashMap;
use tcpstate_common::{STATE_SLOTS, TcpState};

use super::{Assignment, HalfOpenKind, Increment, ListeningSocket, QueueSums, Served};
use crate::collect::{Admission, close_wait::OTHER, owners::OwnerLabels};

/// Series that are not shown now and whose totals are remembered, in case they are shown again.
const REMEMBERED: usize = 4096;

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// Whose listener.
    pub owner: Arc<OwnerLabels>,
    /// Address and port; `None` for all that have no series of their own.
    pub address: Option<(IpAddr, u16)>,
}

/// Series of one set of labels at most: one for each metric of queues and counters, each kind of
/// half-open connections, and each state.
pub(crate) const SERIES_OF_A_LISTENER: u32 = 6 + 3 + 8;

/// Which kinds of half-open connections and which states were ever seen at a listener: of the others,
/// which at most are nearly all, there is nothing to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    kinds: u8,
    states: u16,
}

impl Seen {
    fn note(&mut self, series: &ListenerSeries) {
        for kind in HalfOpenKind::ALL {
            self.kinds |= u8::from(series.queues.half_open.get(kind) > 0) << kind as u8;
        }
        for state in TcpState::ALL {
            self.states |= u16::from(series.connections(state) > 0) << state as u8;
        }
    }

    /// Whether there was ever one of this kind.
    #[must_use]
    pub const fn has_kind(self, kind: HalfOpenKind) -> bool {
        self.kinds >> kind as u8 & 1 != 0
    }

    /// Whether there was ever one in this state.
    #[must_use]
    pub const fn has_state(self, state: TcpState) -> bool {
        self.states >> state as u8 & 1 != 0
    }
}

/// The values of one set of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerSeries {
    /// The queues.
    pub queues: QueueSums,
    /// Connections by state, those half open in `NewSynRecv`.
    pub by_state: [u64; STATE_SLOTS],
    /// What was counted since the agent's start.
    pub total: Increment,
    /// What was ever seen of it.
    pub seen: Seen,
}

impl ListenerSeries {
    /// Connections in `state`; for SYN_RECV also those half open.
    #[must_use]
    pub const fn connections(&self, state: TcpState) -> u64 {
        let count = self.by_state[state as usize];
        match state {
            TcpState::SynRecv => count + self.by_state[TcpState::NewSynRecv as usize],
            _ => count,
        }
    }
}

/// What was counted for each series since the agent's start.
#[derive(Debug, Default)]
pub struct Totals {
    by_key: FxHashMap<ListenerKey, Total>,
    look: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    increment: Increment,
    seen: Seen,
    /// The look that it was shown in last.
    look: u64,
}

impl Totals {
    /// Adds what has come to a series that is shown, and tells it what its total is then.
    fn settle(&mut self, key: &ListenerKey, increment: Increment, series: &mut ListenerSeries) {
        let known = self.by_key.entry(key.clone()).or_default();
        known.increment.add(increment);
        known.seen.note(series);
        known.look = self.look;
        (series.total, series.seen) = (known.increment, known.seen);
    }

    /// Ends a look.
    fn end_look(&mut self) {
        // The ones that were not shown for longest go first.
        let surplus = self.by_key.len().saturating_sub(REMEMBERED);
        if surplus > 0 {
            let not_shown = self.by_key.values().map(|total| total.look);
            let mut looks: Vec<u64> = not_shown.filter(|look| *look != self.look).collect();
            looks.sort_unstable();
            looks.truncate(surplus);
            let (last, mut left) = (looks.last().copied(), looks.len());
            self.by_key.retain(|_, total| {
                let goes = left > 0 && last.is_some_and(|last| total.look <= last);
                left -= usize::from(goes);
                !goes
            });
            // What a peak took is not kept.
            self.by_key.shrink_to(REMEMBERED);
        }
        self.look += 1;
    }
}

/// How busy a series is: what waits, what was dropped or sent again since the last look, and its
/// connections.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// The administrator has named its service.
    is_named: bool,
    waiting: u64,
    lost: u64,
    connections: u64,
    /// An accept queue is full.
    is_full: bool,
}

impl Rank {
    const IDLE: Self = Self {
        is_named: false,
        waiting: 0,
        lost: 0,
        connections: 0,
        is_full: false,
    };

    const fn is_in_trouble(self) -> bool {
        self.lost > 0 || self.is_full
    }
}

/// The `limit` busiest series that are admitted, those of named services before all others, in the order
/// of their labels, and behind them one of the rest. Also returns how many were folded into that. A
/// listener whose port the kernel has chosen is one of the others until it is in trouble: its labels
/// are new each time that it starts.
/// `sockets` come with what is new at each, as they were assigned; `served` has the namespaces
/// that were passed over, by inode number.
///
/// There may be ten thousand sockets at every scrape: nothing is compared as text, and what is
/// large is only made for series that are shown.
#[must_use]
pub fn top<'a>(
    assignment: &Assignment,
    sockets: impl Iterator<Item = (&'a ListeningSocket, Increment)> + Clone,
    served: &BTreeMap<u32, Served>,
    limit: usize,
    totals: &mut Totals,
    admission: &mut Admission,
    now: Instant,
) -> (Vec<(ListenerKey, ListenerSeries)>, u64) {
    let by_state = connections(assignment, served);
    let mut ranks = ranks(assignment, sockets.clone(), &by_state);
    if admission.names_any() {
        for (series, rank) in ranks.iter_mut().enumerate() {
            let ListenerKey { owner, address } = assignment.key(series);
            rank.is_named = admission.is_named(&owner, address.map(|(_, port)| port));
        }
    }
    let shown = busiest(&ranks, limit, |series| {
        let set = assignment.set(series);
        if ranks[series].is_named {
            return admission.admits_named(set, SERIES_OF_A_LISTENER, now);
        }
        let is_for_others = assignment.is_any_port(series)
            && !ranks[series].is_in_trouble()
            && !admission.knows(set);
        !is_for_others && admission.admits(set, SERIES_OF_A_LISTENER, now)
    });
    let folded = assignment.series() - shown.len();
    // Behind those that are shown come all others.
    let mut places = vec![shown.len(); assignment.series()];
    for (place, series) in shown.iter().enumerate() {
        places[*series] = place;
    }
    let mut sums = vec![(ListenerSeries::default(), Increment::default()); shown.len() + 1];
    let nothing = Served::default();
    for ((socket, new), series) in sockets.zip(assignment.of_sockets()) {
        let Some(series) = series else {
            continue;
        };
        let served = served.get(&socket.namespace).unwrap_or(&nothing);
        let (sum, increment) = &mut sums[places[series]];
        sum.queues.add(socket, served);
        increment.add(new);
    }
    for (series, found) in by_state {
        let (sum, _) = &mut sums[places[series]];
        for (count, found) in sum.by_state.iter_mut().zip(found) {
            *count += found;
        }
    }
    let other = (folded > 0).then(|| ListenerKey {
        owner: Arc::new(OwnerLabels {
            process: OTHER.to_owned(),
            ..OwnerLabels::default()
        }),
        address: None,
    });
    let keys = shown.iter().map(|series| assignment.key(*series));
    let all = keys.chain(other).zip(sums);
    let all = all.map(|(key, (mut series, increment))| {
        totals.settle(&key, increment, &mut series);
        (key, series)
    });
    let all = all.collect();
    totals.end_look();
    (all, u64::try_from(folded).unwrap_or(u64::MAX))
}

/// Connections by state of the series that have some.
fn connections(
    assignment: &Assignment,
    served: &BTreeMap<u32, Served>,
) -> FxHashMap<usize, [u64; STATE_SLOTS]> {
    let mut by_state = FxHashMap::<usize, [u64; STATE_SLOTS]>::default();
    for (address, found) in served.values().flat_map(|served| &served.services) {
        let Some(series) = assignment.of_connections(address) else {
            continue;
        };
        let counts = by_state.entry(series).or_default();
        for (count, found) in counts.iter_mut().zip(found.by_state) {
            *count += u64::from(found);
        }
    }
    by_state
}

fn ranks<'a>(
    assignment: &Assignment,
    sockets: impl Iterator<Item = (&'a ListeningSocket, Increment)>,
    by_state: &FxHashMap<usize, [u64; STATE_SLOTS]>,
) -> Vec<Rank> {
    let mut ranks = vec![Rank::IDLE; assignment.series()];
    for ((socket, new), series) in sockets.zip(assignment.of_sockets()) {
        if let Some(series) = series {
            let rank = &mut ranks[series];
            rank.waiting += u64::from(socket.accept_queue) + u64::from(socket.half_open);
            rank.lost += new.drops + new.synack_retransmits;
            rank.is_full |= socket.accept_queue > socket.accept_limit;
        }
    }
    for (series, found) in by_state {
        ranks[*series].connections = found.iter().sum();
    }
    ranks
}

/// The `limit` busiest that are admitted, in the order of their labels. Of equally busy ones those are
/// taken whose labels come first, so that none comes and goes.
fn busiest(ranks: &[Rank], limit: usize, mut is_admitted: impl FnMut(usize) -> bool) -> Vec<usize> {
    // Most are idle, and need not be compared with each other.
    let (idle, mut busy): (Vec<usize>, Vec<usize>) =
        (0..ranks.len()).partition(|series| ranks[*series] == Rank::IDLE);
    busy.sort_unstable_by_key(|series| (Reverse(ranks[*series]), *series));
    let in_turn = busy.into_iter().chain(idle);
    let mut shown: Vec<usize> = in_turn
        .filter(|series| is_admitted(*series))
        .take(limit)
        .collect();
    shown.sort_unstable();
    shown
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Increments, Labelled,
            group::tests::{served, socket},
        },
        *,
    };
    use crate::collect::SeriesLimits;

    fn sockets(queues: &[(u16, u32)], drops: u32) -> Vec<ListeningSocket> {
        let sockets = queues.iter().map(|(port, queue)| ListeningSocket {
            socket: u64::from(*port),
            address: ([127, 0, 0, 1], *port).into(),
            drops,
            ..socket(*queue, 10, 1)
        });
        sockets.collect()
    }

    /// The series of sockets that each have an owner, of which these are the labels.
    fn top_of(
        sockets: &[(&ListeningSocket, u32)],
        owners: &[Arc<OwnerLabels>],
        served: &BTreeMap<u32, Served>,
        limit: usize,
        totals: &mut Totals,
    ) -> (Vec<(ListenerKey, ListenerSeries)>, u64) {
        let owned = sockets.iter().map(|(socket, owner)| {
            let labels = &owners[*owner as usize];
            let order = *owner;
            (*socket, Some(Labelled { labels, order }))
        });
        let assignment = Assignment::new(owned);
        let sockets = sockets.iter().map(|(socket, _)| {
            let increment = looked().look([(*socket, true)])[0];
            (*socket, increment)
        });
        let limits = SeriesLimits {
            burst: u32::MAX,
            per_hour: 0,
        };
        let now = Instant::now();
        let mut admission = Admission::new(limits, now);
        top(
            &assignment,
            sockets,
            served,
            limit,
            totals,
            &mut admission,
            now,
        )
    }

    fn shown(
        sockets: &[ListeningSocket],
        limit: usize,
        totals: &mut Totals,
    ) -> (Vec<(Option<u16>, u64, u64)>, u64) {
        let sockets: Vec<_> = sockets.iter().map(|socket| (socket, 0)).collect();
        let nobody = [Arc::default()];
        let (series, folded) = top_of(&sockets, &nobody, &BTreeMap::new(), limit, totals);
        let series = series.into_iter().map(|(key, series)| {
            let port = key.address.map(|(_, port)| port);
            (port, series.queues.accept_queue, series.total.drops)
        });
        (series.collect(), folded)
    }

    #[test]
    fn the_busiest_have_series_and_the_others_one_together() {
        let sockets = sockets(&[(1, 5), (2, 0), (3, 7), (4, 1)], 2);
        let mut totals = Totals::default();
        let (found, folded) = shown(&sockets, 2, &mut totals);
        assert_eq!(folded, 2);
        assert_eq!(found, [(Some(1), 5, 2), (Some(3), 7, 2), (None, 1, 4)]);
        let (found, folded) = shown(&sockets, 4, &mut Totals::default());
        assert_eq!((found.len(), folded), (4, 0));
    }

    #[test]
    fn where_there_is_room_idle_ones_are_shown_too() {
        let sockets = sockets(&[(1, 0), (2, 0), (3, 7), (4, 0)], 0);
        let (found, folded) = shown(&sockets, 3, &mut Totals::default());
        assert_eq!(folded, 1);
        assert_eq!(
            found,
            [
                (Some(1), 0, 0),
                (Some(2), 0, 0),
                (Some(3), 7, 0),
                (None, 0, 0)
            ]
        );
    }

    #[test]
    fn processes_with_equal_labels_share_a_series() {
        let found = sockets(&[(1, 5), (2, 3), (1, 4)], 0);
        let owners = ["a", "b"].map(|process| {
            Arc::new(OwnerLabels {
                process: process.to_owned(),
                ..OwnerLabels::default()
            })
        });
        let all = [(&found[0], 1), (&found[1], 0), (&found[2], 1)];
        let (series, folded) = top_of(&all, &owners, &BTreeMap::new(), 10, &mut Totals::default());
        let series: Vec<_> = series
            .iter()
            .map(|(key, series)| (&*key.owner.process, series.queues.accept_queue))
            .collect();
        assert_eq!((series, folded), (vec![("a", 3), ("b", 9)], 0));
    }

    #[test]
    fn connections_of_an_address_that_several_share_count_once() {
        let found = socket(0, 128, 0);
        let owners = ["a", "b"].map(|process| {
            Arc::new(OwnerLabels {
                process: process.to_owned(),
                ..OwnerLabels::default()
            })
        });
        for order in [[0, 1], [1, 0]] {
            let all = order.map(|owner| (&found, owner));
            let (series, _) = top_of(&all, &owners, &served(), 10, &mut Totals::default());
            let connections: Vec<_> = series
                .iter()
                .map(|(key, series)| {
                    let established = series.connections(TcpState::Established);
                    (&*key.owner.process, established)
                })
                .collect();
            assert_eq!(connections, [("a", 9), ("b", 0)]);
        }
    }

    #[test]
    fn what_comes_is_added_to_the_series_of_that_moment_and_never_goes_back() {
        let mut totals = Totals::default();
        shown(&sockets(&[(1, 5), (2, 1)], 3), 1, &mut totals);
        let (found, _) = shown(&sockets(&[(1, 1), (2, 9)], 3), 1, &mut totals);
        // Each was the busiest once.
        assert_eq!(found, [(Some(2), 9, 3), (None, 1, 6)]);
        let (found, _) = shown(&sockets(&[(1, 5), (2, 1)], 0), 1, &mut totals);
        assert_eq!(found, [(Some(1), 5, 3), (None, 1, 6)]);
    }

    #[test]
    fn the_totals_of_series_that_are_gone_do_not_fill_the_memory() {
        let mut totals = Totals::default();
        for port in 1..=6_000 {
            shown(&sockets(&[(port, 1)], 1), 10, &mut totals);
        }
        assert_eq!(totals.by_key.len(), REMEMBERED);
    }

    /// The ports that are shown of sockets of which the kernel has chosen every second port.
    fn admitted(
        admission: &mut Admission,
        totals: &mut Totals,
        ports: std::ops::Range<u16>,
        drops: u32,
    ) -> Vec<Option<u16>> {
        let queues: Vec<_> = ports.map(|port| (port, 0)).collect();
        let mut sockets = sockets(&queues, drops);
        for socket in &mut sockets {
            socket.is_any_port = socket.address.port() % 2 == 0;
        }
        let labels = Arc::default();
        let owned = sockets.iter().map(|socket| {
            let labels = &labels;
            (socket, Some(Labelled { labels, order: 0 }))
        });
        let assignment = Assignment::new(owned);
        let new = looked().look(sockets.iter().map(|socket| (socket, true)));
        let sockets = sockets.iter().zip(new);
        let nothing = BTreeMap::new();
        let (shown, _) = top(
            &assignment,
            sockets,
            &nothing,
            100,
            totals,
            admission,
            Instant::now(),
        );
        let ports = shown.iter().map(|(key, _)| key.address);
        ports.map(|address| Some(address?.1)).collect()
    }

    #[test]
    fn a_listener_on_a_port_that_the_kernel_chose_is_shown_in_trouble_and_from_then_on() {
        let mut admission = Admission::new(SeriesLimits::USUAL, Instant::now());
        let mut totals = Totals::default();
        let mut shown = |ports, drops| admitted(&mut admission, &mut totals, ports, drops);
        assert_eq!(shown(1..4, 0), [Some(1), Some(3), None]);
        assert_eq!(shown(2..4, 1), [Some(2), Some(3)]);
        assert_eq!(shown(1..6, 0), [Some(1), Some(2), Some(3), Some(5), None]);
    }

    #[test]
    fn those_that_are_shown_stay_when_there_is_no_room_for_new_ones() {
        let limits = SeriesLimits {
            burst: 2 * SERIES_OF_A_LISTENER,
            per_hour: 0,
        };
        let mut admission = Admission::new(limits, Instant::now());
        let mut totals = Totals::default();
        let mut shown = |ports, drops| admitted(&mut admission, &mut totals, ports, drops);
        assert_eq!(shown(100..104, 0), [Some(101), Some(103), None]);
        // The new ones are busier.
        assert_eq!(shown(0..50, 9), [None]);
        assert_eq!(shown(90..110, 0), [Some(101), Some(103), None]);
    }

    #[test]
    fn what_was_ever_seen_of_a_listener_goes_on_being_shown() {
        let mut seen = Seen::default();
        let mut series = ListenerSeries::default();
        series.queues.half_open.deferred = 1;
        series.by_state[TcpState::NewSynRecv as usize] = 2;
        seen.note(&series);
        seen.note(&ListenerSeries::default());
        assert!(seen.has_kind(HalfOpenKind::Deferred) && !seen.has_kind(HalfOpenKind::Waiting));
        assert!(seen.has_state(TcpState::SynRecv) && !seen.has_state(TcpState::Established));
    }

    /// After a look that has met nothing: all that comes is new.
    fn looked() -> Increments {
        let mut increments = Increments::default();
        increments.look([]);
        increments
    }
}
