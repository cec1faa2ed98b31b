//! The page that Prometheus scrapes.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    TextEncoder, core::Collector as _, process_collector::ProcessCollector, proto::MetricFamily,
};
use thiserror::Error;

use super::{
    families::{families, unlogged},
    family::Spare,
    http,
};
use crate::{
    collect::listeners::metrics::{self as listeners, ListenerLabels},
    engine::{ListenersReading, Stopped, Watch},
    logging::Log,
    serve::HttpReading,
};

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
/// and no value is kept in between, so no series is ever stale.
pub struct MetricsPage {
    watch: Arc<Watch>,
    log: Option<Log>,
    process: ProcessCollector,
    /// With nothing in it while a page is made; another one at that time does without.
    spare: Mutex<Spare<ListenerLabels>>,
}

impl MetricsPage {
    /// The page of `watch`.
    #[must_use]
    pub fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            log: None,
            process: ProcessCollector::for_self(),
            spare: Mutex::default(),
        }
    }

    /// The same, with what is not in the agent's log.
    #[must_use]
    pub fn with_log(self, log: Log) -> Self {
        Self {
            log: Some(log),
            ..self
        }
    }

    /// In Prometheus' text format, with what the HTTP server counts. Takes a reading:
    /// milliseconds, and it blocks.
    pub fn render(&self, http: &HttpReading) -> Result<String, PageError> {
        let reading = self.watch.read()?;
        let lock = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spare = std::mem::take(&mut *lock());
        let mut families = families(&reading, &mut spare);
        families.extend(http::families(http));
        families.extend(self.log.iter().map(|log| unlogged(log.unlogged())));
        families.extend(self.process.collect());
        let page = text(families, &mut spare);
        *lock() = spare;
        page
    }
}

/// The part of the page that tells what listens: where there are many, nearly all of it.
pub fn of_listeners(
    reading: &ListenersReading,
    spare: &mut Spare<ListenerLabels>,
) -> Result<String, PageError> {
    let families = listeners::families(reading, spare);
    text(families, spare)
}

fn text(
    mut families: Vec<MetricFamily>,
    spare: &mut Spare<ListenerLabels>,
) -> Result<String, PageError> {
    // The encoder refuses a metric that has no series.
    families.retain(|family| !family.get_metric().is_empty());
    families.sort_unstable_by(|one, other| one.name().cmp(other.name()));
    let text = TextEncoder::new().encode_to_string(&families);
    spare.take_back(&mut families);
    Ok(text?)
}
