//! From a reading to metric families.

use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::{
    catalogue::own,
    family::{Sample, Spare, family, series},
};
use crate::{
    collect::{
        self,
        close_wait::metrics as close_wait,
        closes::metrics as closes,
        counters::metrics as kernel,
        listeners::metrics::{
            ListenerLabels, families as listener_families, handshakes as handshake_families,
        },
        outgoing::metrics::{families as outgoing_families, left_behind},
        segments::metrics as segments,
        sockets::metrics as sockets,
    },
    engine::{CloseWaitReading, Events, FaultSums, ListenersReading, Reading, SnapshotState},
    host::Source,
    logging::Unlogged,
    version,
};

/// All families of `reading`, some of them over `spare` series.
pub(super) fn families(reading: &Reading, spare: &mut Spare<ListenerLabels>) -> Vec<MetricFamily> {
    let Reading {
        sockets,
        by_namespace: _,
        transitions,
        missed,
        close_wait,
        outgoing,
        orphans,
        durations,
        closes,
        resets,
        listeners,
        handshakes,
        events,
        snapshot,
        namespaces,
        kernel_counters,
        limits,
        max_orphans,
        faults,
        segments: on_interfaces,
        programs,
    } = reading;
    let mut families = vec![
        family(
            &own::BUILD_INFO,
            [series(
                [
                    version::VERSION,
                    version::REVISION,
                    version::BRANCH,
                    version::RUSTC,
                ],
                1,
            )],
        ),
        family(
            &own::PROGRAM_UP,
            programs
                .iter()
                .map(|status| (status.program.name(), status.outcome.is_ok()))
                .chain(
                    on_interfaces
                        .iter()
                        .flat_map(|found| found.programs.clone()),
                )
                .map(|(name, runs)| series([name], u64::from(runs))),
        ),
        family(
            &own::SOURCE_UP,
            [
                (Source::Sockstat, orphans.is_some()),
                (Source::Sysctl, max_orphans.is_some()),
                (Source::Fdinfo, missed.is_some() || transitions.is_none()),
            ]
            .map(|(source, is_up)| series([source.name()], u64::from(is_up))),
        ),
    ];
    families.extend(namespaces.map(|count| family(&own::NAMESPACES, [series([], count)])));
    families.extend(sockets.as_ref().map(sockets::by_state));
    families.extend(transitions.as_ref().map(sockets::transitions));
    families.extend(missed.map(|missed| family(&own::MISSED, [series([], missed)])));
    families.extend(close_wait.iter().flat_map(close_wait::families));
    families.extend(durations.iter().flat_map(closes::durations));
    families.extend(closes.iter().flat_map(closes::families));
    families.extend(resets.iter().filter_map(closes::resets));
    if let Some(listeners) = listeners {
        families.extend(listener_families(listeners, spare));
    }
    families.extend(handshakes.iter().flat_map(handshake_families));
    families.extend(outgoing.iter().flat_map(outgoing_families));
    families.extend(left_behind(reading));
    families.extend(folded(reading));
    families.extend(kernel::counters(kernel_counters));
    families.extend(kernel::limits(limits.as_ref(), *max_orphans));
    families.extend(on_interfaces.iter().flat_map(segments::families));
    families.extend(events.iter().flat_map(self::events));
    families.extend(snapshot.iter().flat_map(self::snapshot));
    families.extend(faults.iter().flat_map(self::faults));
    families.extend(
        passes(snapshot.as_ref(), close_wait.as_ref(), listeners.as_ref())
            .into_iter()
            .flatten(),
    );
    families
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

/// What had no series of its own.
fn folded(reading: &Reading) -> Option<MetricFamily> {
    let close_wait = reading.close_wait.as_ref();
    let close_wait =
        close_wait.map(|found| (collect::close_wait::catalogue::SOCKETS.name, found.folded));
    let listeners = reading.listeners.as_ref();
    let listeners = listeners.map(|found| {
        (
            collect::listeners::catalogue::ACCEPT_QUEUE.name,
            found.folded,
        )
    });
    let outgoing = reading.outgoing.iter().flat_map(|found| {
        [
            (
                collect::outgoing::catalogue::TIME_WAIT.name,
                found.time_wait_folded,
            ),
            (
                collect::outgoing::catalogue::PORTS_USED.name,
                found.used_folded,
            ),
        ]
    });
    let all: Vec<_> = close_wait
        .into_iter()
        .chain(listeners)
        .chain(outgoing)
        .collect();
    let samples = all.iter().map(|(metric, count)| series([*metric], *count));
    (!all.is_empty()).then(|| family(&own::SERIES_FOLDED, samples))
}

/// How long each pass takes, and how old is what it found.
fn passes(
    sockets: Option<&SnapshotState>,
    owners: Option<&CloseWaitReading>,
    listeners: Option<&ListenersReading>,
) -> Option<[MetricFamily; 2]> {
    let sockets = sockets?;
    let owners = owners.map(|owners| ("owners", owners.found.took, owners.age));
    // They are read at each scrape.
    let listeners = listeners.map(|listeners| ("listeners", listeners.took, Duration::ZERO));
    let passes = [("sockets", sockets.duration, sockets.age)]
        .into_iter()
        .chain(listeners)
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

/// What did not go well with reading the kernel's tables.
fn faults(sums: &FaultSums) -> [MetricFamily; 4] {
    let one = |metric, count| family(metric, [series([], count)]);
    [
        one(&own::PASS_REDONE, sums.looks.redone),
        one(&own::PASS_GIVEN_UP, sums.looks.given_up),
        one(&own::PASS_FREED, sums.looks.freed),
        one(&own::PASS_MISMATCH, sums.mismatches),
    ]
}

/// What is not in the log.
pub(super) fn unlogged(unlogged: Unlogged) -> MetricFamily {
    let Unlogged { repeated, not_read } = unlogged;
    let all = [("repeated", repeated), ("not_read", not_read)];
    family(
        &own::LOG_DROPPED,
        all.map(|(reason, count)| series([reason], count)),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tcpstate_common::{
        CloseCounters, Due, Handshakes, StateDurations, TcpState, TransitionMatrix,
    };

    use super::{
        super::{catalogue, http},
        *,
    };
    use crate::{
        collect::{
            listeners::metrics as listeners,
            outgoing::metrics as outgoing,
            sockets::{Census, LEGAL_TRANSITIONS},
        },
        decode::Limits,
        kernel::Resets,
        serve::HttpReading,
    };

    fn reading() -> Reading {
        Reading {
            sockets: Some(Census::default()),
            by_namespace: BTreeMap::new(),
            transitions: Some(TransitionMatrix::ZERO),
            missed: Some(0),
            close_wait: Some(close_wait::tests::reading()),
            outgoing: Some(outgoing::tests::reading()),
            orphans: Some(3),
            durations: Some(StateDurations::default()),
            closes: Some(CloseCounters::default()),
            resets: Some(Resets {
                sent: Some([("unknown".to_owned(), 0)].into()),
                received: Some(0),
            }),
            listeners: Some(listeners::tests::reading()),
            handshakes: Some(Handshakes::default()),
            events: Some(Events::default()),
            snapshot: Some(SnapshotState {
                uncertain: Some(0),
                ..SnapshotState::default()
            }),
            namespaces: Some(1),
            kernel_counters: kernel::tests::all(),
            limits: Some(Limits {
                syncookies: 1,
                somaxconn: 4096,
                max_syn_backlog: 512,
                synack_retries: 5,
                max_tw_buckets: 65_536,
            }),
            max_orphans: Some(16_384),
            faults: Some(FaultSums::default()),
            segments: Some(segments::tests::reading()),
            programs: Vec::new(),
        }
    }

    fn find<'a>(families: &'a [MetricFamily], name: &str) -> Option<&'a MetricFamily> {
        families.iter().find(|family| family.name() == name)
    }

    #[test]
    fn every_metric_of_the_catalogue_is_filled_and_no_other() {
        let mut filled: Vec<String> = families(&reading(), &mut Spare::default())
            .iter()
            .chain(&http::families(&HttpReading::default()))
            .chain([&unlogged(Unlogged::default())])
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
        let families = families(&reading(), &mut Spare::default());
        let sockets = find(&families, "tcpstate_sockets").unwrap();
        assert_eq!(sockets.get_metric().len(), 20);
    }

    #[test]
    fn transitions_are_zero_filled_and_an_unexpected_pair_is_not_hidden() {
        let mut reading = reading();
        let matrix = reading.transitions.as_mut().unwrap();
        let due = Due::of(TcpState::CloseWait as u32, TcpState::Established as u32);
        matrix.record(due);
        let families = families(&reading, &mut Spare::default());
        let transitions = find(&families, "tcpstate_transitions_total").unwrap();
        assert_eq!(transitions.get_metric().len(), LEGAL_TRANSITIONS.len() + 1);
    }

    #[test]
    fn what_nothing_can_see_is_absent() {
        let seen = reading();
        let blind = Reading {
            namespaces: seen.namespaces,
            kernel_counters: seen.kernel_counters,
            limits: seen.limits,
            max_orphans: seen.max_orphans,
            faults: seen.faults,
            ..Reading::default()
        };
        let families = families(&blind, &mut Spare::default());
        for absent in [
            "tcpstate_sockets",
            "tcpstate_transitions_total",
            "tcpstate_events_total",
            "tcpstate_close_wait_sockets",
            "tcpstate_state_duration_seconds",
            "tcpstate_closes_total",
            "tcpstate_resets_total",
            "tcpstate_listener_accept_queue",
            "tcpstate_time_wait_sockets",
            "tcpstate_fin_wait2_sockets",
            "tcpstate_orphaned_sockets",
            "tcpstate_handshake_duration_seconds",
            "tcpstate_series_folded_total",
            "tcpstate_snapshot_age_seconds",
            "tcpstate_segments_total",
        ] {
            assert!(find(&families, absent).is_none(), "{absent}");
        }
        assert!(find(&families, "tcpstate_build_info").is_some());
    }
}
