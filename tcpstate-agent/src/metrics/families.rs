//! From a reading to metric families.

use std::time::Duration;

use prometheus::proto::MetricFamily;
use tcpstate_common::{Family, TcpState, TransitionMatrix};

use super::{
    catalogue::{own, sockets},
    close_wait,
    family::{Sample, family, series},
};
use crate::{
    model::{Census, LEGAL_TRANSITIONS},
    watch::{CloseWaitReading, Events, NamespaceResults, Reading, SnapshotState},
};

/// All families of `reading`.
pub(super) fn families(reading: &Reading) -> Vec<MetricFamily> {
    let Reading {
        sockets,
        by_namespace: _,
        transitions,
        missed,
        close_wait,
        close_wait_durations,
        events,
        snapshot,
        namespaces,
        programs,
    } = reading;
    let mut families = vec![
        family(&own::BUILD_INFO, [series([env!("CARGO_PKG_VERSION")], 1)]),
        family(
            &own::PROGRAM_UP,
            programs.iter().map(|status| {
                let up = u64::from(status.outcome.is_ok());
                series([status.program.name()], up)
            }),
        ),
        self::namespaces(namespaces),
    ];
    families.extend(sockets.as_ref().map(by_state));
    families.extend(transitions.as_ref().map(self::transitions));
    families.extend(missed.map(|missed| family(&own::MISSED, [series([], missed)])));
    families.extend(close_wait.iter().flat_map(close_wait::families));
    families.extend(close_wait_durations.iter().flat_map(close_wait::durations));
    families.extend(events.iter().flat_map(self::events));
    families.extend(snapshot.iter().flat_map(self::snapshot));
    families.extend(
        passes(snapshot.as_ref(), close_wait.as_ref())
            .into_iter()
            .flatten(),
    );
    families
}

fn by_state(census: &Census) -> MetricFamily {
    let all = Family::ALL.into_iter().flat_map(|family| {
        TcpState::FOUND.into_iter().map(move |state| {
            series(
                [family_name(family), state.name()],
                census.get(family, state),
            )
        })
    });
    family(&sockets::SOCKETS, all)
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
    family(&sockets::TRANSITIONS, pairs)
}

fn events(events: &Events) -> [MetricFamily; 6] {
    let ring = |metric, count| family(metric, [series(["transitions"], count)]);
    [
        ring(&own::EVENTS, events.kernel.emitted),
        ring(&own::EVENTS_DECODED, events.decoded),
        ring(&own::EVENTS_LOST, events.lost()),
        ring(&own::EVENTS_MALFORMED, events.malformed),
        family(&own::UNTRACKED, [series([], events.kernel.untracked)]),
        family(
            &own::UNKNOWN_STATES,
            [series([], events.kernel.unknown_state)],
        ),
    ]
}

fn snapshot(state: &SnapshotState) -> Vec<MetricFamily> {
    let mut families = vec![family(&own::UNKNOWN_SOCKETS, [series([], state.unknown)])];
    families.extend(
        state
            .uncertain
            .map(|uncertain| family(&own::SNAPSHOT_UNCERTAIN, [series([], uncertain)])),
    );
    families
}

/// How long each pass takes, and how old is what it found.
fn passes(
    sockets: Option<&SnapshotState>,
    owners: Option<&CloseWaitReading>,
) -> Option<[MetricFamily; 2]> {
    let sockets = sockets?;
    let owners = owners.map(|owners| ("owners", owners.found.took, owners.age));
    let passes = [("sockets", sockets.duration, sockets.age)]
        .into_iter()
        .chain(owners);
    let seconds = |name, duration: Duration| Sample::new([name], duration.as_secs_f64());
    Some([
        family(
            &own::SNAPSHOT_DURATION,
            passes.clone().map(|(name, took, _)| seconds(name, took)),
        ),
        family(
            &own::SNAPSHOT_AGE,
            passes.map(|(name, _, age)| seconds(name, age)),
        ),
    ])
}

fn namespaces(results: &NamespaceResults) -> MetricFamily {
    let NamespaceResults {
        counted,
        denied,
        unreachable,
    } = *results;
    family(
        &own::NAMESPACES,
        [
            series(["counted"], counted),
            series(["denied"], denied),
            series(["unreachable"], unreachable),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tcpstate_common::Durations;

    use super::*;
    use crate::metrics::catalogue;

    fn reading() -> Reading {
        Reading {
            sockets: Some(Census::default()),
            by_namespace: BTreeMap::new(),
            transitions: Some(TransitionMatrix::ZERO),
            missed: Some(0),
            close_wait: Some(close_wait::tests::reading()),
            close_wait_durations: Some(Durations::default()),
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
            close_wait: None,
            close_wait_durations: None,
            events: None,
            snapshot: None,
            ..reading()
        };
        let families = families(&blind);
        for absent in [
            "tcpstate_sockets",
            "tcpstate_transitions_total",
            "tcpstate_events_total",
            "tcpstate_close_wait_sockets",
            "tcpstate_state_duration_seconds",
            "tcpstate_snapshot_age_seconds",
        ] {
            assert!(find(&families, absent).is_none(), "{absent}");
        }
        assert!(find(&families, "tcpstate_build_info").is_some());
    }
}
