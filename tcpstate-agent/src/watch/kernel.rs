//! Reading the kernel's own counters: beside whatever else a namespace is visited for, and at a
//! scrape in all namespaces where that is cheap.

use std::time::{Duration, Instant};

use tcpstate_common::NamespaceCounters;
use tracing::debug;

use super::shared::{Namespaces, Shared};
use crate::{
    model::{KernelReading, KernelTotals, Signs},
    netns::{KernelCounters, Tables},
};

/// What a scrape may spend on them.
const SCRAPE_LIMIT: Duration = Duration::from_millis(2);
/// What a visit is taken to cost until some have been measured.
const FIRST_GUESS: Duration = Duration::from_micros(100);
/// How many visits the measured cost is about the mean of.
const SMOOTHING: u32 = 8;

/// Whether there is time for netstat, which takes the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Netstat {
    /// It is read wherever it can tell anything new.
    IfNeeded,
    /// It is not read.
    Never,
}

/// The sums of all namespaces, and what it costs to read those of one.
pub(super) struct Kernel {
    pub(super) totals: KernelTotals,
    visit_cost: Duration,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            totals: KernelTotals::default(),
            visit_cost: FIRST_GUESS,
        }
    }
}

impl Kernel {
    /// Whether so many namespaces can be read at a scrape.
    fn is_cheap(&self, namespaces: usize) -> bool {
        let namespaces = u32::try_from(namespaces).unwrap_or(u32::MAX);
        self.visit_cost.saturating_mul(namespaces) <= SCRAPE_LIMIT
    }

    fn note_cost(&mut self, cost: Duration) {
        self.visit_cost = (self.visit_cost * (SMOOTHING - 1) + cost) / SMOOTHING;
    }
}

impl Shared {
    /// Whether the scrape that begins reads the counters of all namespaces.
    pub(super) fn netstat_at_scrape(&self) -> Netstat {
        let namespaces = self.namespaces();
        let Namespaces {
            watched, kernel, ..
        } = &*namespaces;
        let can_be_entered = watched.values().filter(|watched| watched.failure.is_none());
        if kernel.is_cheap(can_be_entered.count()) {
            Netstat::IfNeeded
        } else {
            Netstat::Never
        }
    }

    /// Reads the counters of the namespace that the calling thread is in. `signs` are from before,
    /// `begun` is from before it was entered.
    pub(super) fn read_kernel_counters(
        &self,
        inode: u32,
        begun: Instant,
        snmp: &Tables,
        signs: &Signs,
        netstat: Netstat,
    ) {
        let is_needed = self.namespaces().kernel.totals.needs_netstat(inode, signs);
        let table = match (is_needed, netstat) {
            (false, _) => None,
            // Without it the signs would be taken for seen.
            (true, Netstat::Never) => return,
            (true, Netstat::IfNeeded) => match Tables::netstat() {
                Ok(table) => Some(table),
                Err(error) => {
                    debug!(namespace = inode, %error, "cannot read netstat");
                    None
                }
            },
        };
        let reading = KernelReading {
            counters: KernelCounters::parse(snmp, table.as_ref()),
            signs: *signs,
            begun,
            ended: Instant::now(),
        };
        let mut namespaces = self.namespaces();
        let Namespaces {
            watched, kernel, ..
        } = &mut *namespaces;
        if table.is_some() {
            kernel.note_cost(reading.ended.saturating_duration_since(begun));
        }
        if let Some(watched) = watched.get(&inode) {
            kernel.totals.add(inode, watched.origin, &reading);
        }
    }

    /// The same at a scrape, which knows all signs but the segments.
    pub(super) fn read_kernel_counters_afresh(
        &self,
        inode: u32,
        begun: Instant,
        live: &NamespaceCounters,
        missed: u64,
    ) {
        let snmp = match Tables::snmp() {
            Ok(snmp) => snmp,
            Err(error) => {
                debug!(namespace = inode, %error, "cannot read snmp");
                return;
            }
        };
        if let Some(segments_in) = snmp.segments_in() {
            let signs = Signs {
                live: *live,
                missed,
                segments_in,
            };
            self.read_kernel_counters(inode, begun, &snmp, &signs, Netstat::IfNeeded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_reads_all_where_it_takes_two_milliseconds_at_most() {
        let mut kernel = Kernel::default();
        for _ in 0..100 {
            kernel.note_cost(Duration::from_micros(50));
        }
        assert!(kernel.is_cheap(39));
        assert!(!kernel.is_cheap(41));
        assert!(!kernel.is_cheap(usize::MAX));
    }

    #[test]
    fn one_slow_visit_is_no_measure() {
        let mut kernel = Kernel::default();
        kernel.note_cost(Duration::from_micros(900));
        assert!(kernel.is_cheap(10));
    }
}
