//! Metric families out of values.

use std::collections::BTreeMap;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Series, MetricFamily, MetricType,
};

use super::catalogue::{Kind, Metric};

/// One series of a metric: the values of its labels, in their order, and its own.
pub(crate) struct Sample<'a, const LABELS: usize> {
    labels: [&'a str; LABELS],
    value: f64,
}

impl<'a, const LABELS: usize> Sample<'a, LABELS> {
    pub(crate) const fn new(labels: [&'a str; LABELS], value: f64) -> Self {
        Self { labels, value }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are doubles; counts stay exact up to 2^53"
)]
pub(crate) const fn series<const LABELS: usize>(
    labels: [&str; LABELS],
    value: u64,
) -> Sample<'_, LABELS> {
    Sample::new(labels, value as f64)
}

pub(crate) fn family<'a, const LABELS: usize>(
    metric: &Metric,
    samples: impl IntoIterator<Item = Sample<'a, LABELS>>,
) -> MetricFamily {
    with_series(metric, written_over(Vec::new(), false, metric, samples))
}

/// Series of the page before, to be written over.
///
/// Each label is two strings, and making, comparing and dropping those takes longer than all the
/// rest of a page of thousands of series. From one page to the next hardly a label changes.
#[derive(Debug)]
pub struct Spare<K> {
    /// What the labels were made of.
    labelled: Vec<K>,
    /// That has not changed since.
    is_same: bool,
    by_metric: BTreeMap<&'static str, Vec<Series>>,
}

impl<K> Default for Spare<K> {
    fn default() -> Self {
        Self {
            labelled: Vec::new(),
            is_same: false,
            by_metric: BTreeMap::new(),
        }
    }
}

impl<K: PartialEq> Spare<K> {
    /// Begins a page on which all labels are made of `keys`, in the order of these.
    pub(crate) fn begin(&mut self, keys: Vec<K>) {
        self.is_same = keys == self.labelled;
        self.labelled = keys;
    }

    /// [`family`], over the series of the same metric.
    pub(crate) fn family<'a, const LABELS: usize>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = Sample<'a, LABELS>>,
    ) -> MetricFamily {
        let all = std::mem::take(self.by_metric.entry(metric.name).or_default());
        with_series(metric, written_over(all, self.is_same, metric, samples))
    }

    /// Takes back what [`Spare::family`] has given out, for the next page.
    pub(crate) fn take_back(&mut self, families: &mut [MetricFamily]) {
        for family in families {
            if let Some(place) = self.by_metric.get_mut(family.name()) {
                *place = family.take_metric();
            }
        }
    }
}

/// Writes samples over series of the same metric, and makes those that are missing. Unless they
/// `are_labelled` as the samples are, they are labelled anew.
fn written_over<'a, const LABELS: usize>(
    mut all: Vec<Series>,
    are_labelled: bool,
    metric: &Metric,
    samples: impl IntoIterator<Item = Sample<'a, LABELS>>,
) -> Vec<Series> {
    debug_assert_eq!(metric.labels.len(), LABELS, "{}", metric.name);
    let mut count = 0;
    for sample in samples {
        match all.get_mut(count) {
            None => all.push(Series::from_label(pairs(metric, sample.labels))),
            Some(_) if are_labelled => {}
            Some(series) => relabel(series, sample.labels),
        }
        set_value(&mut all[count], metric.kind, sample.value);
        count += 1;
    }
    all.truncate(count);
    // What a peak took is not kept.
    all.shrink_to(2 * count);
    all
}

/// Gives a series other values of the same labels.
fn relabel<const LABELS: usize>(series: &mut Series, values: [&str; LABELS]) {
    for (pair, value) in series.mut_label().iter_mut().zip(values) {
        if pair.value() != value {
            pair.set_value(value.to_owned());
        }
    }
}

fn set_value(series: &mut Series, kind: Kind, value: f64) {
    match kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            series.set_counter(counter);
        }
        Kind::Gauge | Kind::Histogram => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            series.set_gauge(gauge);
        }
    }
}

/// Observations in buckets, as the kernel side counts them.
pub(crate) struct Buckets<'a> {
    /// Upper bounds in nanoseconds, rising, each inclusive.
    pub(crate) bounds_ns: &'a [u64],
    /// Observations of each bucket, and of the one beyond the last bound.
    pub(crate) counts: &'a [u64],
    /// Sum of all observations in nanoseconds.
    pub(crate) sum_ns: u64,
}

/// A family of histograms.
pub(crate) fn histograms<'a, const LABELS: usize>(
    metric: &Metric,
    all: impl IntoIterator<Item = ([&'a str; LABELS], Buckets<'a>)>,
) -> MetricFamily {
    let all = all.into_iter().map(|(labels, buckets)| {
        let mut series = Series::from_label(pairs(metric, labels));
        series.set_histogram(histogram(&buckets));
        series
    });
    with_series(metric, all.collect())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are doubles; sums stay exact to the nanosecond for a hundred days"
)]
fn histogram(buckets: &Buckets<'_>) -> Histogram {
    let mut cumulative = 0;
    let shown = buckets.bounds_ns.iter().zip(buckets.counts);
    let shown = shown
        .map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e9);
            bucket.set_cumulative_count(cumulative);
            bucket
        })
        .collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(shown);
    histogram.set_sample_count(buckets.counts.iter().sum());
    histogram.set_sample_sum(buckets.sum_ns as f64 / 1e9);
    histogram
}

fn with_series(metric: &Metric, series: Vec<Series>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(series);
    family
}

fn pairs<const LABELS: usize>(metric: &Metric, values: [&str; LABELS]) -> Vec<LabelPair> {
    let labels = metric.labels.iter().zip(values);
    labels
        .map(|(label, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(label.name.to_owned());
            pair.set_value(value.to_owned());
            pair
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::sockets::catalogue::TRANSITIONS;

    #[test]
    fn series_over_earlier_ones_are_the_same_as_new_ones() {
        let mut spare = Spare::default();
        for (keys, pairs) in [
            (1, &[("listen", "syn_recv", 3)][..]),
            (2, &[("listen", "close", 1), ("listen", "syn_recv", 4)]),
            (2, &[("listen", "close", 5), ("listen", "syn_recv", 6)]),
            (3, &[("syn_recv", "close", 7)]),
            (4, &[]),
            (5, &[("a longer one", "", 0), ("listen", "close", 1)]),
        ] {
            let samples = || {
                let pairs = pairs.iter();
                pairs.map(|(from, to, count)| series([*from, *to], *count))
            };
            spare.begin(vec![keys]);
            let mut families = [spare.family(&TRANSITIONS, samples())];
            assert_eq!(families, [family(&TRANSITIONS, samples())]);
            spare.take_back(&mut families);
        }
    }

    #[test]
    fn only_what_was_given_out_is_taken_back() {
        let mut spare = Spare::<()>::default();
        spare.take_back(&mut [family(&TRANSITIONS, [series(["listen", "close"], 1)])]);
        assert!(spare.by_metric.is_empty());
    }
}
