//! All namespaces together, as series.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use super::NamespaceOutgoing;
use crate::collect::{Admission, LabelSet};

/// What there is to show of outgoing connections. `None` stands for all destinations that have no
/// series of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutgoingSeries {
    /// Sockets in TIME_WAIT.
    pub time_wait: BTreeMap<Option<SocketAddr>, u64>,
    /// How many destinations that have some are in the series of the others.
    pub time_wait_folded: u64,
    /// The greatest part of the ports that is taken.
    pub used: BTreeMap<Option<SocketAddr>, f64>,
    /// How many destinations are in the series of the others.
    pub used_folded: u64,
    /// Sockets whose destination there was no room for in the kernel.
    pub unplaced: u64,
}

/// Puts all namespaces together, and keeps `limit` destinations that are admitted for each metric.
#[must_use]
pub fn merge<'a>(
    namespaces: impl IntoIterator<Item = &'a NamespaceOutgoing>,
    limit: usize,
    admission: &mut Admission,
    now: Instant,
) -> OutgoingSeries {
    let mut time_wait = BTreeMap::<SocketAddr, u64>::new();
    let mut used = BTreeMap::<SocketAddr, f64>::new();
    let (mut other_time_wait, mut other_used) = (0, 0.0_f64);
    let mut forgotten = 0;
    let mut series = OutgoingSeries::default();
    for namespace in namespaces {
        for way in &namespace.ways {
            if way.time_wait > 0 {
                *time_wait.entry(way.remote).or_default() += u64::from(way.time_wait);
            }
            if let Some(part) = namespace.part(way.held)
                && way.held > 0
            {
                let greatest = used.entry(way.remote).or_default();
                *greatest = greatest.max(part);
            }
        }
        other_time_wait += namespace.other_time_wait;
        other_used = other_used.max(namespace.part(namespace.other_held).unwrap_or(0.0));
        forgotten += namespace.forgotten;
        series.unplaced += namespace.unplaced;
    }
    let mut admits = |metric: &str, remote: &SocketAddr| {
        admission.admits(LabelSet::of(&(metric, remote)), 1, now)
    };
    let (shown, others) = top(time_wait, limit, Ord::cmp, |remote| {
        admits("time_wait", remote)
    });
    series.time_wait_folded = length(&others) + forgotten;
    series.time_wait = shown;
    let others: u64 = others.into_iter().map(|(_, count)| count).sum();
    if others + other_time_wait > 0 {
        series.time_wait.insert(None, others + other_time_wait);
    }
    let (shown, others) = top(used, limit, f64::total_cmp, |remote| {
        admits("ports_used", remote)
    });
    series.used_folded = length(&others) + forgotten;
    series.used = shown;
    let others = others.into_iter().map(|(_, part)| part);
    let others = others.fold(other_used, f64::max);
    if others > 0.0 {
        series.used.insert(None, others);
    }
    series
}

type Shown<T> = BTreeMap<Option<SocketAddr>, T>;

/// The `limit` greatest that are admitted, and the others. Of equal ones those that come first stay first.
fn top<T: Copy>(
    all: BTreeMap<SocketAddr, T>,
    limit: usize,
    compare: impl Fn(&T, &T) -> std::cmp::Ordering,
    mut is_admitted: impl FnMut(&SocketAddr) -> bool,
) -> (Shown<T>, Vec<(SocketAddr, T)>) {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by(|(_, one), (_, other)| compare(other, one));
    let mut room = limit;
    let (shown, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(remote, _)| {
        let is_shown = room > 0 && is_admitted(remote);
        room -= usize::from(is_shown);
        is_shown
    });
    let shown = shown.into_iter();
    let shown = shown.map(|(remote, value)| (Some(remote), value));
    (shown.collect(), others)
}

fn length<T>(of: &[T]) -> u64 {
    of.len().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::Way, *};
    use crate::collect::SeriesLimits;

    fn merged<'a>(
        namespaces: impl IntoIterator<Item = &'a NamespaceOutgoing>,
        limit: usize,
    ) -> OutgoingSeries {
        let now = Instant::now();
        let mut admission = Admission::new(SeriesLimits::USUAL, now);
        merge(namespaces, limit, &mut admission, now)
    }

    #[test]
    fn destinations_that_are_not_admitted_are_among_the_others() {
        let now = Instant::now();
        let limits = SeriesLimits {
            burst: 2,
            per_hour: 0,
        };
        let mut admission = Admission::new(limits, now);
        let mut at = |number| {
            let all = [namespace(100, vec![way(1, number, 50, 10)])];
            let series = merge(&all, 10, &mut admission, now);
            (series.time_wait, series.used, series.used_folded)
        };
        assert_eq!(
            at(1),
            (
                [(Some(remote(1)), 10)].into(),
                [(Some(remote(1)), 0.5)].into(),
                0
            )
        );
        assert_eq!(at(2), ([(None, 10)].into(), [(None, 0.5)].into(), 1));
        assert_eq!(at(1).2, 0);
    }

    fn remote(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 443))
    }

    fn way(local: u8, number: u8, held: u32, time_wait: u32) -> Way {
        Way {
            local: std::net::Ipv4Addr::new(10, 0, 1, local).into(),
            remote: remote(number),
            held,
            time_wait,
            reusable: 0,
        }
    }

    fn namespace(ports: u32, ways: Vec<Way>) -> NamespaceOutgoing {
        NamespaceOutgoing {
            ports: Some(ports),
            ways,
            ..NamespaceOutgoing::default()
        }
    }

    #[test]
    fn the_greatest_part_counts_and_time_wait_is_added_up() {
        let all = [
            namespace(100, vec![way(1, 1, 50, 10), way(2, 1, 60, 5)]),
            namespace(1000, vec![way(1, 1, 500, 100)]),
        ];
        let series = merged(&all, 10);
        assert_eq!(series.used, [(Some(remote(1)), 0.6)].into());
        assert_eq!(series.time_wait, [(Some(remote(1)), 115)].into());
        assert_eq!((series.used_folded, series.time_wait_folded), (0, 0));
    }

    #[test]
    fn those_beyond_the_limit_are_the_others() {
        let ways = (1..=5).map(|number| way(1, number, 10 * u32::from(number), number.into()));
        let one = NamespaceOutgoing {
            forgotten: 7,
            other_time_wait: 100,
            other_held: 45,
            unplaced: 3,
            ..namespace(100, ways.collect())
        };
        let series = merged([&one], 2);
        assert_eq!(
            series.time_wait,
            [(None, 106), (Some(remote(4)), 4), (Some(remote(5)), 5),].into()
        );
        assert_eq!(
            series.used,
            [(None, 0.45), (Some(remote(4)), 0.4), (Some(remote(5)), 0.5),].into()
        );
        assert_eq!((series.used_folded, series.time_wait_folded), (10, 10));
        assert_eq!(series.unplaced, 3);
    }

    #[test]
    fn of_equal_ones_always_the_same_are_shown() {
        let ways = |order: [u8; 3]| order.map(|number| way(1, number, 1, 1)).to_vec();
        let one = merged(&[namespace(100, ways([3, 1, 2]))], 1);
        let other = merged(&[namespace(100, ways([2, 3, 1]))], 1);
        assert_eq!(one, other);
    }

    #[test]
    fn with_nothing_there_is_nothing_to_show() {
        assert_eq!(merged([], 10), OutgoingSeries::default());
        let idle = namespace(100, Vec::new());
        assert_eq!(merged([&idle], 10), OutgoingSeries::default());
    }
}
