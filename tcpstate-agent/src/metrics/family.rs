//! Metric families out of values.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Series, MetricFamily, MetricType,
};

use super::catalogue::{Kind, Metric};

/// One series of a metric: the values of its labels, in their order, and its own.
pub(super) struct Sample<'a, const LABELS: usize> {
    labels: [&'a str; LABELS],
    value: f64,
}

impl<'a, const LABELS: usize> Sample<'a, LABELS> {
    pub(super) const fn new(labels: [&'a str; LABELS], value: f64) -> Self {
        Self { labels, value }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are doubles; counts stay exact up to 2^53"
)]
pub(super) const fn series<const LABELS: usize>(
    labels: [&str; LABELS],
    value: u64,
) -> Sample<'_, LABELS> {
    Sample::new(labels, value as f64)
}

pub(super) fn family<'a, const LABELS: usize>(
    metric: &Metric,
    samples: impl IntoIterator<Item = Sample<'a, LABELS>>,
) -> MetricFamily {
    debug_assert_eq!(metric.labels.len(), LABELS, "{}", metric.name);
    let of_samples = samples.into_iter().map(|Sample { labels, value }| {
        let mut series = Series::from_label(pairs(metric, labels));
        match metric.kind {
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
        series
    });
    with_series(metric, of_samples.collect())
}

/// Observations in buckets, as the kernel side counts them.
pub(super) struct Buckets<'a> {
    /// Upper bounds in nanoseconds, rising, each inclusive.
    pub(super) bounds_ns: &'a [u64],
    /// Observations of each bucket, and of the one beyond the last bound.
    pub(super) counts: &'a [u64],
    /// Sum of all observations in nanoseconds.
    pub(super) sum_ns: u64,
}

/// A family of histograms.
pub(super) fn histograms<'a, const LABELS: usize>(
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
