//! Where outgoing connections go, in all namespaces together.

use std::{collections::BTreeMap, time::Instant};

use super::{NamespaceReading, namespaces::Watched};
use crate::collect::{
    Admission,
    outgoing::{NamedPortHolders, NamespaceOutgoing, OutgoingSeries, merge},
    unanswered::{UnansweredKey, UnansweredTally},
};

/// What is kept from one reading to the next.
#[derive(Debug)]
pub(super) struct Going {
    limit: usize,
    time_wait_folded: u64,
    used_folded: u64,
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

/// Where connections go and which peers do not answer, for a person who asks.
#[derive(Clone, Debug)]
pub struct Connections {
    /// By the inode number of the namespace: where its connections go.
    pub outgoing: Vec<(u32, NamespaceOutgoing)>,
    /// Those whose peers do not answer.
    pub unanswered: BTreeMap<UnansweredKey, UnansweredTally>,
    /// Who has the local ports that are running out, as far as a process does.
    pub port_holders: NamedPortHolders,
}

impl Going {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            time_wait_folded: 0,
            used_folded: 0,
        }
    }

    pub(super) fn reading<'a>(
        &mut self,
        namespaces: impl Iterator<Item = &'a Watched>,
        readings: &BTreeMap<u32, NamespaceReading>,
        admission: &mut Admission,
        now: Instant,
    ) -> OutgoingReading {
        let found: Vec<_> = namespaces
            .filter_map(|watched| {
                let reading = readings.get(&watched.id.inode)?;
                Some((&watched.outgoing, reading.minisockets.total()))
            })
            .collect();
        let series = merge(
            found.iter().map(|(outgoing, _)| *outgoing),
            self.limit,
            admission,
            now,
        );
        let parts = found.iter().filter_map(|(outgoing, minisockets)| {
            Some(part(*minisockets, outgoing.max_tw_buckets?))
        });
        self.time_wait_folded += series.time_wait_folded;
        self.used_folded += series.used_folded;
        OutgoingReading {
            time_wait_folded: self.time_wait_folded,
            used_folded: self.used_folded,
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
