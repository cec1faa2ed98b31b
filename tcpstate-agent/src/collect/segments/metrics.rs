//! Metric families of segments on network interfaces.

use prometheus::proto::MetricFamily;
use tcpstate_common::{Direction, SegmentCounts, Skipped};

use super::{Anomaly, SHOWN_AT_ZERO, SegmentsReading, catalogue as segments, flag_names};
use crate::exposition::family::{Sample, family, series};

pub(crate) fn families(reading: &SegmentsReading) -> [MetricFamily; 3] {
    [
        family(&segments::SEGMENTS, each(reading).flat_map(One::by_flags)),
        family(&segments::ANOMALOUS, each(reading).flat_map(One::anomalous)),
        family(&segments::SKIPPED, each(reading).flat_map(One::skipped)),
    ]
}

/// One interface in one direction.
#[derive(Clone, Copy)]
struct One<'a> {
    device: &'a str,
    direction: &'static str,
    counts: &'a SegmentCounts,
}

fn each(reading: &SegmentsReading) -> impl Iterator<Item = One<'_>> {
    reading.devices.iter().flat_map(|(device, counts)| {
        Direction::ALL.into_iter().map(move |direction| One {
            device,
            direction: direction.name(),
            counts: &counts[direction.slot()],
        })
    })
}

impl<'a> One<'a> {
    fn series(self, label: &'static str, count: u64) -> Sample<'a, 3> {
        series([self.device, self.direction, label], count)
    }

    fn by_flags(self) -> impl Iterator<Item = Sample<'a, 3>> {
        (0..=u8::MAX).filter_map(move |flags| {
            let count = self.counts.by_flags[usize::from(flags)];
            let is_shown = count > 0 || SHOWN_AT_ZERO.contains(&flags);
            is_shown.then(|| self.series(flag_names(flags), count))
        })
    }

    fn anomalous(self) -> impl Iterator<Item = Sample<'a, 3>> {
        Anomaly::ALL.into_iter().map(move |anomaly| {
            let of_kind = (0..=u8::MAX).filter(|flags| Anomaly::of(*flags) == Some(anomaly));
            let count = of_kind
                .map(|flags| self.counts.by_flags[usize::from(flags)])
                .fold(0, u64::wrapping_add);
            self.series(anomaly.name(), count)
        })
    }

    fn skipped(self) -> impl Iterator<Item = Sample<'a, 3>> {
        Skipped::ALL
            .into_iter()
            .map(move |reason| self.series(reason.name(), self.counts.skipped[reason.slot()]))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use prometheus::proto::LabelPair;

    use super::*;

    /// An interface with something in every direction.
    pub(crate) fn reading() -> SegmentsReading {
        let mut counts = Box::new([SegmentCounts::ZERO; 2]);
        counts[0].by_flags[0x02] = 5;
        counts[0].by_flags[0x03] = 2;
        counts[0].by_flags[0x07] = 1;
        counts[1].skipped[Skipped::Fragment.slot()] = 9;
        SegmentsReading {
            devices: vec![("eth0".to_owned(), counts)],
            programs: vec![("segments_xdp", true), ("segments_tc_out", false)],
        }
    }

    fn value(family: &MetricFamily, labels: [&str; 3]) -> Option<f64> {
        let mut series = family.get_metric().iter();
        series
            .find(|series| {
                let values = series.get_label().iter().map(LabelPair::value);
                values.eq(labels)
            })
            .map(|series| series.get_counter().get_value())
    }

    #[test]
    fn what_has_occurred_and_the_ordinary_at_zero_have_series() {
        let [segments, anomalous, skipped] = families(&reading());
        let ingress = ["eth0", "ingress", "SYN"];
        assert_eq!(value(&segments, ingress), Some(5.0));
        assert_eq!(value(&segments, ["eth0", "ingress", "SYN-FIN"]), Some(2.0));
        assert_eq!(value(&segments, ["eth0", "egress", "SYN"]), Some(0.0));
        assert_eq!(value(&segments, ["eth0", "egress", "SYN-FIN"]), None);
        assert_eq!(segments.get_metric().len(), 2 * SHOWN_AT_ZERO.len() + 2);
        assert_eq!(value(&anomalous, ["eth0", "ingress", "syn_fin"]), Some(3.0));
        assert_eq!(value(&anomalous, ["eth0", "ingress", "syn_rst"]), Some(0.0));
        assert_eq!(anomalous.get_metric().len(), 2 * Anomaly::ALL.len());
        assert_eq!(value(&skipped, ["eth0", "egress", "fragment"]), Some(9.0));
        assert_eq!(skipped.get_metric().len(), 6);
    }
}
