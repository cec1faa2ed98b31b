//! The page that Prometheus scrapes.

use std::sync::Arc;

use prometheus::{
    TextEncoder, core::Collector as _, process_collector::ProcessCollector, proto::MetricFamily,
};
use thiserror::Error;

use super::{families::families, listeners};
use crate::watch::{ListenersReading, Stopped, Watch};

/// Why there is no page.
#[derive(Debug, Error)]
pub enum PageError {
    /// Nobody reads the kernel any more.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// A value does not fit the format.
    #[error("cannot encode the metrics: {0}")]
    Encode(#[from] prometheus::Error),
}

/// What a watch sees, and the agent's own process, as a page.
///
/// There is no [`prometheus::Registry`]: at each scrape it sorts all series by all their labels,
/// which took longer than the rest of a scrape of 4,000 series. Here they come in an order already,
/// and nothing is kept in between, so no series is ever stale.
pub struct MetricsPage {
    watch: Arc<Watch>,
    process: ProcessCollector,
}

impl MetricsPage {
    /// The page of `watch`.
    #[must_use]
    pub fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            process: ProcessCollector::for_self(),
        }
    }

    /// In Prometheus' text format. Takes a reading: milliseconds, and it blocks.
    pub fn render(&self) -> Result<String, PageError> {
        let mut families = families(&*self.watch.read()?);
        families.extend(self.process.collect());
        text(families)
    }
}

/// The part of the page that tells what listens: where there are many, nearly all of it.
pub fn of_listeners(reading: &ListenersReading) -> Result<String, PageError> {
    text(listeners::families(reading))
}

fn text(mut families: Vec<MetricFamily>) -> Result<String, PageError> {
    // The encoder refuses a metric that has no series.
    families.retain(|family| !family.get_metric().is_empty());
    families.sort_unstable_by(|one, other| one.name().cmp(other.name()));
    Ok(TextEncoder::new().encode_to_string(&families)?)
}
