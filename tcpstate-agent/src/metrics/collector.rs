//! The Prometheus registry and what fills it at each scrape.

use std::{collections::HashMap, sync::Arc};

use prometheus::{
    Registry, TextEncoder,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};

use super::{catalogue, families::families};
use crate::watch::Watch;

/// Reads the watch at each scrape; nothing is kept in between, so no series is ever stale.
struct WatchCollector {
    watch: Arc<Watch>,
    descriptions: Vec<Desc>,
}

impl Collector for WatchCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match self.watch.read() {
            Ok(reading) => families(&reading),
            Err(error) => {
                tracing::error!(%error, "cannot collect");
                Vec::new()
            }
        }
    }
}

/// A registry that shows what `watch` sees, and the agent's own process.
pub fn register(watch: Arc<Watch>) -> prometheus::Result<Registry> {
    let descriptions = catalogue::ALL
        .iter()
        .map(|metric| {
            let labels = metric
                .labels
                .iter()
                .map(|label| label.name.to_owned())
                .collect();
            Desc::new(
                metric.name.to_owned(),
                metric.help.to_owned(),
                labels,
                HashMap::new(),
            )
        })
        .collect::<prometheus::Result<_>>()?;
    let registry = Registry::new();
    registry.register(Box::new(WatchCollector {
        watch,
        descriptions,
    }))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// The registry in Prometheus' text format. Takes a reading: milliseconds, and it blocks.
pub fn render(registry: &Registry) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&registry.gather())
}
