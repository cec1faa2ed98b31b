//! Metrics of outgoing connections and of what is left of connections that were closed.

use std::{collections::BTreeMap, net::SocketAddr};

use prometheus::proto::MetricFamily;
use tcpstate_common::TcpState;

use super::catalogue;
use crate::{
    collect::sockets::Minisockets,
    engine::{OutgoingReading, Reading},
    exposition::{
        catalogue::Metric,
        family::{Sample, family, series},
    },
};

/// What stands in the place of the address for all that have no series of their own.
const OTHER: &str = "other";

/// Where outgoing connections go.
pub(crate) fn families(reading: &OutgoingReading) -> Vec<MetricFamily> {
    let OutgoingReading {
        series: shown,
        time_wait_folded: _,
        used_folded: _,
        buckets_used,
    } = reading;
    let mut families = vec![
        by_destination(&catalogue::TIME_WAIT, &shown.time_wait, |labels, count| {
            series(labels, count)
        }),
        by_destination(&catalogue::PORTS_USED, &shown.used, |labels, part| {
            Sample::new(labels, part)
        }),
        family(&catalogue::UNPLACED, [series([], shown.unplaced)]),
    ];
    families
        .extend(buckets_used.map(|part| family(&catalogue::BUCKETS_USED, [Sample::new([], part)])));
    families
}

fn by_destination<T: Copy>(
    metric: &Metric,
    shown: &BTreeMap<Option<SocketAddr>, T>,
    sample: impl for<'a> Fn([&'a str; 2], T) -> Sample<'a, 2>,
) -> MetricFamily {
    let texts: Vec<(String, String, T)> = shown
        .iter()
        .map(|(remote, value)| match remote {
            Some(remote) => (remote.ip().to_string(), remote.port().to_string(), *value),
            None => (OTHER.to_owned(), String::new(), *value),
        })
        .collect();
    let samples = texts
        .iter()
        .map(|(address, port, value)| sample([address, port], *value));
    family(metric, samples)
}

/// What is left of connections that were closed.
pub(crate) fn left_behind(reading: &Reading) -> impl Iterator<Item = MetricFamily> {
    let fin_wait2 = reading.sockets.as_ref().map(|sockets| {
        let namespaces = reading.by_namespace.values();
        let minisockets: u64 = namespaces
            .map(|namespace| in_fin_wait2(&namespace.minisockets))
            .sum();
        let full = sockets.in_state(TcpState::FinWait2) - minisockets;
        let kinds = [("full", full), ("minisocket", minisockets)];
        family(
            &catalogue::FIN_WAIT2,
            kinds.map(|(kind, count)| series([kind], count)),
        )
    });
    let orphans = reading
        .orphans
        .map(|orphans| family(&catalogue::ORPHANS, [series([], orphans)]));
    fin_wait2.into_iter().chain(orphans)
}

fn in_fin_wait2(minisockets: &Minisockets) -> u64 {
    minisockets.fin_wait2.iter().sum()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{super::OutgoingSeries, *};

    pub(crate) fn reading() -> OutgoingReading {
        let remote = Some(SocketAddr::from(([10, 0, 0, 1], 443)));
        OutgoingReading {
            series: OutgoingSeries {
                time_wait: [(None, 7), (remote, 5)].into(),
                used: [(None, 0.25), (remote, 0.5)].into(),
                unplaced: 3,
                ..OutgoingSeries::default()
            },
            time_wait_folded: 1,
            used_folded: 2,
            buckets_used: Some(0.1),
        }
    }

    #[test]
    fn the_others_have_a_name_and_no_port() {
        let families = families(&reading());
        for family in &families[..2] {
            let labels: Vec<Vec<&str>> = family
                .get_metric()
                .iter()
                .map(|series| {
                    series
                        .get_label()
                        .iter()
                        .map(prometheus::proto::LabelPair::value)
                        .collect()
                })
                .collect();
            assert_eq!(labels, [["other", ""], ["10.0.0.1", "443"]]);
        }
        assert!((families[1].get_metric()[1].get_gauge().get_value() - 0.5).abs() < 1e-9);
    }
}
