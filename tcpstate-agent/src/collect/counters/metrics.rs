//! Metric families of the kernel's own counters and limits.

use prometheus::proto::MetricFamily;

use super::{KernelCounter, KernelCounters, catalogue as kernel};
use crate::{
    decode::Limits,
    exposition::{
        catalogue::Metric,
        family::{family, series},
    },
};

/// The counters without a label.
const SINGLE: [(&Metric, KernelCounter); 6] = [
    (&kernel::LISTEN_OVERFLOWS, KernelCounter::ListenOverflows),
    (&kernel::LISTEN_DROPS, KernelCounter::ListenDrops),
    (&kernel::SYN_QUEUE_FULL_DROPS, KernelCounter::ReqQFullDrop),
    (
        &kernel::SYN_QUEUE_FULL_COOKIES,
        KernelCounter::ReqQFullDoCookies,
    ),
    (
        &kernel::TIME_WAIT_OVERFLOWS,
        KernelCounter::TimeWaitOverflow,
    ),
    (&kernel::SEGMENTS_SENT_RST, KernelCounter::OutRsts),
];
const SYNCOOKIES: [(&str, KernelCounter); 3] = [
    ("sent", KernelCounter::SyncookiesSent),
    ("received", KernelCounter::SyncookiesReceived),
    ("failed", KernelCounter::SyncookiesFailed),
];
const ABORTS: [(&str, KernelCounter); 6] = [
    ("data", KernelCounter::AbortOnData),
    ("close", KernelCounter::AbortOnClose),
    ("memory", KernelCounter::AbortOnMemory),
    ("timeout", KernelCounter::AbortOnTimeout),
    ("linger", KernelCounter::AbortOnLinger),
    ("failed", KernelCounter::AbortFailed),
];

/// The counters that the kernel has.
pub(crate) fn counters(counters: &KernelCounters) -> Vec<MetricFamily> {
    let mut families: Vec<_> = SINGLE
        .into_iter()
        .filter_map(|(metric, counter)| single(metric, counters.get(counter)))
        .collect();
    families.extend(by_label(&kernel::SYNCOOKIES, &SYNCOOKIES, counters));
    families.extend(by_label(&kernel::ABORTS, &ABORTS, counters));
    families
}

/// The limits that can be read.
pub(crate) fn limits(
    limits: Option<&Limits>,
    max_orphans: Option<u64>,
) -> impl Iterator<Item = MetricFamily> {
    let of_namespace = limits.map(|limits| {
        let Limits {
            syncookies,
            somaxconn,
            max_syn_backlog,
            synack_retries,
            max_tw_buckets,
        } = *limits;
        [
            (&kernel::SYNCOOKIES_MODE, syncookies),
            (&kernel::SOMAXCONN, somaxconn),
            (&kernel::MAX_SYN_BACKLOG, max_syn_backlog),
            (&kernel::SYNACK_RETRIES, synack_retries),
            (&kernel::MAX_TW_BUCKETS, max_tw_buckets),
        ]
    });
    let of_namespace = of_namespace.into_iter().flatten();
    let of_host = max_orphans.map(|limit| (&kernel::MAX_ORPHANS, limit));
    of_namespace
        .chain(of_host)
        .filter_map(|(metric, value)| single(metric, Some(value)))
}

fn single(metric: &Metric, value: Option<u64>) -> Option<MetricFamily> {
    value.map(|value| family(metric, [series([], value)]))
}

fn by_label(
    metric: &Metric,
    labels: &[(&str, KernelCounter)],
    counters: &KernelCounters,
) -> Option<MetricFamily> {
    let known: Vec<_> = labels
        .iter()
        .filter_map(|(label, counter)| Some(series([*label], counters.get(*counter)?)))
        .collect();
    (!known.is_empty()).then(|| family(metric, known))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Every counter, each with another value.
    pub(crate) fn all() -> KernelCounters {
        let mut all = KernelCounters::default();
        for (counter, value) in KernelCounter::ALL.into_iter().zip(100..) {
            all.set(counter, Some(value));
        }
        all
    }

    #[test]
    fn every_counter_is_in_one_series() {
        let mut shown: Vec<f64> = counters(&all())
            .iter()
            .flat_map(|family| family.get_metric().iter())
            .map(|series| series.get_counter().get_value())
            .collect();
        shown.sort_by(f64::total_cmp);
        let expected: Vec<f64> = (100..)
            .map(f64::from)
            .take(KernelCounter::ALL.len())
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_the_kernel_does_not_count_is_absent_and_not_0() {
        assert!(counters(&KernelCounters::default()).is_empty());
        assert_eq!(limits(None, None).count(), 0);
        let mut one = KernelCounters::default();
        one.set(KernelCounter::AbortOnData, Some(0));
        let families = counters(&one);
        assert_eq!(families.len(), 1);
        assert_eq!(families[0].get_metric().len(), 1);
    }
}
