//! From a reading to metric families.

use std::time::Duration;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Series, MetricFamily, MetricType};
use tcpstate_common::{Family, TcpState, TransitionMatrix};

use super::catalogue::{self, Kind, Metric};
use crate::{
    model::{Census, LEGAL_TRANSITIONS},
    watch::{Events, NamespaceResults, Reading, SnapshotState},
};

/// All families of `reading`.
pub(super) fn families(reading: &Reading) -> Vec<MetricFamily> {
    let Reading {
        sockets,
        by_namespace: _,
        transitions,
        missed,
        events,
        snapshot,
        namespaces,
        programs,
    } = reading;
    let mut families = vec![
        family(
            &catalogue::BUILD_INFO,
            [series([env!("CARGO_PKG_VERSION")], 1)],
        ),
        family(
            &catalogue::PROGRAM_UP,
            programs.iter().map(|status| {
                let up = u64::from(status.outcome.is_ok());
                series([status.program.name()], up)
            }),
        ),
        self::namespaces(namespaces),
    ];
    families.extend(sockets.as_ref().map(self::sockets));
    families.extend(transitions.as_ref().map(self::transitions));
    families.extend(missed.map(|missed| family(&catalogue::MISSED, [series([], missed)])));
    families.extend(events.iter().flat_map(self::events));
    families.extend(snapshot.iter().flat_map(self::snapshot));
    families
}

fn sockets(census: &Census) -> MetricFamily {
    let all = Family::ALL.into_iter().flat_map(|family| {
        TcpState::FOUND.into_iter().map(move |state| {
            series(
                [family_name(family), state.name()],
                census.get(family, state),
            )
        })
    });
    family(&catalogue::SOCKETS, all)
}

/// As the label `family` has it.
const fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

fn transitions(matrix: &TransitionMatrix) -> MetricFamily {
    let pairs = TcpState::ALL.into_iter().flat_map(|from| {
        TcpState::ALL.into_iter().filter_map(move |to| {
            let count = matrix.count[from.slot()][to.slot()];
            let is_shown = count > 0 || LEGAL_TRANSITIONS.contains(&(from, to));
            is_shown.then(|| series([from.name(), to.name()], count))
        })
    });
    family(&catalogue::TRANSITIONS, pairs)
}

fn events(events: &Events) -> [MetricFamily; 6] {
    let ring = |metric, count| family(metric, [series(["transitions"], count)]);
    [
        ring(&catalogue::EVENTS, events.kernel.emitted),
        ring(&catalogue::EVENTS_DECODED, events.decoded),
        ring(&catalogue::EVENTS_LOST, events.lost()),
        ring(&catalogue::EVENTS_MALFORMED, events.malformed),
        family(&catalogue::UNTRACKED, [series([], events.kernel.untracked)]),
        family(
            &catalogue::UNKNOWN_STATES,
            [series([], events.kernel.unknown_state)],
        ),
    ]
}

fn snapshot(state: &SnapshotState) -> Vec<MetricFamily> {
    let seconds = |metric, duration: Duration| {
        family(metric, [Sample::new(["sockets"], duration.as_secs_f64())])
    };
    let mut families = vec![
        seconds(&catalogue::SNAPSHOT_DURATION, state.duration),
        seconds(&catalogue::SNAPSHOT_AGE, state.age),
        family(&catalogue::UNKNOWN_SOCKETS, [series([], state.unknown)]),
    ];
    families.extend(
        state
            .uncertain
            .map(|uncertain| family(&catalogue::SNAPSHOT_UNCERTAIN, [series([], uncertain)])),
    );
    families
}

fn namespaces(results: &NamespaceResults) -> MetricFamily {
    let NamespaceResults {
        counted,
        denied,
        unreachable,
    } = *results;
    family(
        &catalogue::NAMESPACES,
        [
            series(["counted"], counted),
            series(["denied"], denied),
            series(["unreachable"], unreachable),
        ],
    )
}

/// One series of a metric: the values of its labels, in their order, and its own.
struct Sample<const LABELS: usize> {
    labels: [&'static str; LABELS],
    value: f64,
}

impl<const LABELS: usize> Sample<LABELS> {
    const fn new(labels: [&'static str; LABELS], value: f64) -> Self {
        Self { labels, value }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are doubles; counts stay exact up to 2^53"
)]
const fn series<const LABELS: usize>(labels: [&'static str; LABELS], value: u64) -> Sample<LABELS> {
    Sample::new(labels, value as f64)
}

fn family<const LABELS: usize>(
    metric: &Metric,
    samples: impl IntoIterator<Item = Sample<LABELS>>,
) -> MetricFamily {
    debug_assert_eq!(metric.labels.len(), LABELS, "{}", metric.name);
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    let all = samples
        .into_iter()
        .map(|sample| to_series(metric, &sample))
        .collect();
    family.set_metric(all);
    family
}

fn to_series<const LABELS: usize>(metric: &Metric, sample: &Sample<LABELS>) -> Series {
    let labels = metric.labels.iter().zip(sample.labels);
    let mut series = Series::from_label(
        labels
            .map(|(label, value)| {
                let mut pair = LabelPair::default();
                pair.set_name(label.name.to_owned());
                pair.set_value(value.to_owned());
                pair
            })
            .collect(),
    );
    match metric.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(sample.value);
            series.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(sample.value);
            series.set_gauge(gauge);
        }
    }
    series
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn reading() -> Reading {
        Reading {
            sockets: Some(Census::default()),
            by_namespace: BTreeMap::new(),
            transitions: Some(TransitionMatrix::ZERO),
            missed: Some(0),
            events: Some(Events::default()),
            snapshot: Some(SnapshotState {
                uncertain: Some(0),
                ..SnapshotState::default()
            }),
            namespaces: NamespaceResults::default(),
            programs: Vec::new(),
        }
    }

    fn find<'a>(families: &'a [MetricFamily], name: &str) -> Option<&'a MetricFamily> {
        families.iter().find(|family| family.name() == name)
    }

    #[test]
    fn every_metric_of_the_catalogue_is_filled_and_no_other() {
        let mut filled: Vec<String> = families(&reading())
            .iter()
            .map(|family| family.name().to_owned())
            .collect();
        filled.sort_unstable();
        let mut promised: Vec<String> = catalogue::ALL
            .iter()
            .map(|metric| metric.name.to_owned())
            .collect();
        promised.sort_unstable();
        assert_eq!(filled, promised);
    }

    #[test]
    fn sockets_are_zero_filled_for_both_families_and_ten_states() {
        let families = families(&reading());
        let sockets = find(&families, "tcpstate_sockets").unwrap();
        assert_eq!(sockets.get_metric().len(), 20);
    }

    #[test]
    fn transitions_are_zero_filled_and_an_unexpected_pair_is_not_hidden() {
        let mut reading = reading();
        let matrix = reading.transitions.as_mut().unwrap();
        matrix.count[TcpState::CloseWait.slot()][TcpState::Established.slot()] = 3;
        let families = families(&reading);
        let transitions = find(&families, "tcpstate_transitions_total").unwrap();
        assert_eq!(transitions.get_metric().len(), LEGAL_TRANSITIONS.len() + 1);
    }

    #[test]
    fn what_nothing_can_see_is_absent() {
        let blind = Reading {
            sockets: None,
            transitions: None,
            missed: None,
            events: None,
            snapshot: None,
            ..reading()
        };
        let families = families(&blind);
        for absent in [
            "tcpstate_sockets",
            "tcpstate_transitions_total",
            "tcpstate_events_total",
            "tcpstate_snapshot_age_seconds",
        ] {
            assert!(find(&families, absent).is_none(), "{absent}");
        }
        assert!(find(&families, "tcpstate_build_info").is_some());
    }
}
