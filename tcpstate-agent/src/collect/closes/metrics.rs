//! Metrics of how connections end.

use prometheus::proto::MetricFamily;
use tcpstate_common::{CloseCounters, CloseReason, STATE_BOUNDS_NS, StateDurations, TimedState};

use super::catalogue;
use crate::{
    exposition::family::{Buckets, family, histograms, series},
    kernel::{Resets, facts::UNKNOWN_RESET},
};

/// How connections ended.
pub(crate) fn families(closes: &CloseCounters) -> [MetricFamily; 3] {
    let by_reason = CloseReason::ALL.map(|reason| series([reason.name()], closes.of(reason)));
    [
        family(&catalogue::CLOSES, by_reason),
        family(
            &catalogue::CLOSE_SEGMENTS,
            [
                series(["3"], closes.three_segments),
                series(["4"], closes.four_segments),
            ],
        ),
        family(
            &catalogue::FIN_WAIT2_ORPHANED,
            [series([], closes.fin_wait2_orphaned)],
        ),
    ]
}

/// How long sockets were in the states that they have left.
pub(crate) fn durations(durations: &StateDurations) -> [MetricFamily; 3] {
    let of = |state: TimedState| (&durations.of[state.slot()], [state.state().name()]);
    let all = TimedState::ALL.map(|state| {
        let (durations, label) = of(state);
        let buckets = Buckets {
            bounds_ns: &STATE_BOUNDS_NS,
            counts: &durations.count,
            sum_ns: durations.sum_ns,
        };
        (label, buckets)
    });
    let unknown = TimedState::ALL.map(|state| {
        let (durations, label) = of(state);
        series(label, durations.unknown)
    });
    let displaced = TimedState::ALL.map(|state| {
        let (durations, label) = of(state);
        series(label, durations.displaced)
    });
    [
        histograms(&catalogue::STATE_DURATION, all),
        family(&catalogue::DURATION_UNKNOWN, unknown),
        family(&catalogue::DURATION_DISPLACED, displaced),
    ]
}

/// Resets.
pub(crate) fn resets(resets: &Resets) -> Option<MetricFamily> {
    let sent = resets.sent.iter().flatten();
    let sent = sent.map(|(reason, count)| series(["sent", reason.as_str()], *count));
    let received = resets
        .received
        .map(|count| series(["received", UNKNOWN_RESET], count));
    let all: Vec<_> = sent.chain(received).collect();
    (!all.is_empty()).then(|| family(&catalogue::RESETS, all))
}

#[cfg(test)]
mod tests {
    use tcpstate_common::{Ending, Stage, UNKNOWN};

    use super::*;

    fn text(families: &[MetricFamily]) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(families)
            .unwrap()
    }

    fn assert_has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(
                text.lines().any(|found| found == *line),
                "no {line} in\n{text}"
            );
        }
    }

    #[test]
    fn durations_are_histograms_that_add_up() {
        let mut durations = StateDurations::default();
        for nanoseconds in [5_000, 2_000_000_000, 2_000_000_000, 90_000_000_000_000] {
            durations.observe(TimedState::CloseWait as u64, nanoseconds);
        }
        durations.observe(TimedState::LastAck as u64, 40_000);
        durations.observe(TimedState::LastAck as u64, UNKNOWN);
        assert_has(
            &text(&self::durations(&durations)),
            &[
                r#"tcpstate_state_duration_seconds_bucket{state="close_wait",le="0.00001"} 1"#,
                r#"tcpstate_state_duration_seconds_bucket{state="close_wait",le="1"} 1"#,
                r#"tcpstate_state_duration_seconds_bucket{state="close_wait",le="10"} 3"#,
                r#"tcpstate_state_duration_seconds_bucket{state="close_wait",le="86400"} 3"#,
                r#"tcpstate_state_duration_seconds_bucket{state="close_wait",le="+Inf"} 4"#,
                r#"tcpstate_state_duration_seconds_sum{state="close_wait"} 90004.000005"#,
                r#"tcpstate_state_duration_seconds_count{state="close_wait"} 4"#,
                r#"tcpstate_state_duration_seconds_bucket{state="last_ack",le="0.00005"} 1"#,
                r#"tcpstate_state_duration_seconds_count{state="last_ack"} 1"#,
                r#"tcpstate_state_duration_seconds_count{state="syn_sent"} 0"#,
                r#"tcpstate_state_duration_unknown_total{state="last_ack"} 1"#,
                r#"tcpstate_state_duration_displaced_total{state="closing"} 0"#,
            ],
        );
    }

    #[test]
    fn every_reason_has_a_series_from_the_start() {
        let mut closes = CloseCounters::default();
        closes.end(1, Ending::new(Stage::HandedOver, 0));
        let families = families(&closes);
        assert_eq!(families[0].get_metric().len(), CloseReason::ALL.len());
        assert_has(
            &text(&families),
            &[
                r#"tcpstate_closes_total{reason="local_fin"} 1"#,
                r#"tcpstate_closes_total{reason="connect_no_port"} 0"#,
                r#"tcpstate_close_segments_total{segments="3"} 0"#,
                "tcpstate_fin_wait2_orphaned_total 1",
            ],
        );
    }

    #[test]
    fn resets_of_which_nothing_tells_are_absent_and_not_0() {
        assert_eq!(resets(&Resets::default()), None);
        let only_received = Resets {
            sent: None,
            received: Some(2),
        };
        assert_eq!(
            text(&[resets(&only_received).unwrap()]).lines().last(),
            Some(r#"tcpstate_resets_total{direction="received",reason="unknown"} 2"#)
        );
    }
}
