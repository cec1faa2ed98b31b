//! Where outgoing connections go, in all namespaces together.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{NamespaceReading, shared::Shared};
use crate::model::outgoing::{OutgoingSeries, merge};

/// What is kept from one reading to the next.
#[derive(Debug)]
pub(super) struct Going {
    limit: usize,
    time_wait_folded: AtomicU64,
    used_folded: AtomicU64,
}

/// Where outgoing connections go, as the snapshots have found them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutgoingReading {
    /// As series.
    pub series: OutgoingSeries,
    /// Destinations with sockets in TIME_WAIT that had no series of their own, summed over all
    /// readings.
    pub time_wait_folded: u64,
    /// Destinations that had no series of their own, summed over all readings.
    pub used_folded: u64,
    /// The greatest part, over namespaces, of the minisockets that there may be.
    pub buckets_used: Option<f64>,
}

impl Going {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            time_wait_folded: AtomicU64::new(0),
            used_folded: AtomicU64::new(0),
        }
    }
}

impl Shared {
    pub(super) fn outgoing_reading(
        &self,
        by_namespace: &BTreeMap<u32, NamespaceReading>,
    ) -> OutgoingReading {
        let namespaces = self.namespaces();
        let found = by_namespace.iter().filter_map(|(inode, reading)| {
            let watched = namespaces.watched.get(inode)?;
            Some((&watched.outgoing, reading.minisockets.total()))
        });
        let series = merge(
            found.clone().map(|(outgoing, _)| outgoing),
            self.going.limit,
        );
        let parts = found.filter_map(|(outgoing, minisockets)| {
            Some(part(minisockets, outgoing.max_tw_buckets?))
        });
        // Only this thread adds to them.
        let add = |sum: &AtomicU64, more| sum.fetch_add(more, Ordering::Relaxed) + more;
        OutgoingReading {
            time_wait_folded: add(&self.going.time_wait_folded, series.time_wait_folded),
            used_folded: add(&self.going.used_folded, series.used_folded),
            buckets_used: parts.max_by(f64::total_cmp),
            series,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "it is a part, of some thousands"
)]
fn part(minisockets: u64, limit: u64) -> f64 {
    if limit == 0 {
        // None may be, and none is more than that.
        return 1.0;
    }
    minisockets as f64 / limit as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_of_the_minisockets_is_that_of_their_limit() {
        for (minisockets, limit, expected) in
            [(0, 10, 0.0), (5, 10, 0.5), (11, 10, 1.1), (0, 0, 1.0)]
        {
            assert!((part(minisockets, limit) - expected).abs() < 1e-9);
        }
    }
}
