//! The kernel's own counters of all namespaces together, as counters that start with the agent
//! and never go back.
//!
//! For each namespace what was read last is known, and what it rose since is added to the sums.
//! So a namespace that is gone leaves in them what it added.

use std::collections::BTreeMap;

use super::{KernelCounter, KernelCounters};
use crate::collect::sockets::NamespaceId;

/// The sums, and what was read last in each namespace.
#[derive(Debug, Default)]
pub struct KernelTotals {
    totals: KernelCounters,
    known: BTreeMap<NamespaceId, KernelCounters>,
}

/// What counts of the values that a namespace has when it is first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there before the agent: nothing.
    BeforeAgent,
    /// It was made since: all.
    SinceAgent,
}

impl KernelTotals {
    /// What was added up. `None` for a counter that no namespace has.
    #[must_use]
    pub const fn totals(&self) -> &KernelCounters {
        &self.totals
    }

    /// Adds what a namespace's counters rose since they were last read.
    pub fn add(&mut self, namespace: NamespaceId, origin: Origin, now: &KernelCounters) {
        let before = self.known.get(&namespace).copied();
        // What cannot be read now goes on from what it was.
        let known = self.known.entry(namespace).or_default();
        for counter in KernelCounter::ALL {
            if let Some(now) = now.get(counter) {
                known.set(counter, Some(now));
            }
        }
        // Where a counter has fallen, another namespace has got the number.
        let is_another = before.is_some_and(|before| has_fallen(&before, now));
        for counter in KernelCounter::ALL {
            let Some(now) = now.get(counter) else {
                continue;
            };
            let known = before.and_then(|before| before.get(counter));
            let base = match (known, origin) {
                (Some(_), _) if is_another => 0,
                (Some(known), _) => known,
                (None, Origin::BeforeAgent) => now,
                (None, Origin::SinceAgent) => 0,
            };
            let total = self.totals.get(counter).unwrap_or(0);
            let total = total.saturating_add(now.saturating_sub(base));
            self.totals.set(counter, Some(total));
        }
    }

    /// Forgets the namespaces that are gone.
    pub fn keep_only(&mut self, is_there: impl Fn(NamespaceId) -> bool) {
        self.known.retain(|namespace, _| is_there(*namespace));
    }
}

/// Whether any counter is lower than it was. In one namespace they only rise.
fn has_fallen(known: &KernelCounters, now: &KernelCounters) -> bool {
    KernelCounter::ALL.into_iter().any(|counter| {
        let (known, now) = (known.get(counter), now.get(counter));
        known.zip(now).is_some_and(|(known, now)| now < known)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use KernelCounter::{ListenDrops, ListenOverflows, OutRsts};
    use Origin::{BeforeAgent, SinceAgent};

    fn counters(values: &[(KernelCounter, u64)]) -> KernelCounters {
        let mut counters = KernelCounters::default();
        for (counter, value) in values {
            counters.set(*counter, Some(*value));
        }
        counters
    }

    const fn id(inode: u32, cookie: u64) -> NamespaceId {
        NamespaceId {
            inode,
            cookie: Some(cookie),
        }
    }

    #[test]
    fn what_was_there_before_the_agent_does_not_count_and_what_came_since_does() {
        let mut totals = KernelTotals::default();
        totals.add(id(1, 1), BeforeAgent, &counters(&[(ListenDrops, 100)]));
        assert_eq!(totals.totals().get(ListenDrops), Some(0));
        totals.add(id(1, 1), BeforeAgent, &counters(&[(ListenDrops, 103)]));
        totals.add(id(2, 2), SinceAgent, &counters(&[(ListenDrops, 7)]));
        assert_eq!(totals.totals().get(ListenDrops), Some(10));
        assert_eq!(totals.totals().get(OutRsts), None);
    }

    #[test]
    fn a_namespace_that_is_gone_leaves_what_it_added_and_its_number_to_another() {
        let mut totals = KernelTotals::default();
        totals.add(id(1, 1), SinceAgent, &counters(&[(ListenDrops, 100)]));
        totals.keep_only(|_| false);
        // With more than the other had, and known by its cookie.
        totals.add(id(1, 2), SinceAgent, &counters(&[(ListenDrops, 250)]));
        assert_eq!(totals.totals().get(ListenDrops), Some(350));
    }

    #[test]
    fn without_cookies_a_counter_that_falls_tells_of_another_namespace() {
        let id = NamespaceId {
            inode: 1,
            cookie: None,
        };
        let mut totals = KernelTotals::default();
        let first = [(ListenDrops, 100), (ListenOverflows, 5)];
        totals.add(id, BeforeAgent, &counters(&first));
        let other = [(ListenDrops, 3), (ListenOverflows, 6)];
        totals.add(id, BeforeAgent, &counters(&other));
        assert_eq!(totals.totals().get(ListenDrops), Some(3));
        assert_eq!(totals.totals().get(ListenOverflows), Some(6));
    }

    proptest! {
        #[test]
        fn the_sum_never_goes_back(readings in prop::collection::vec((0_u32..3, 0_u64..3, 0_u64..1000), 1..100)) {
            let mut totals = KernelTotals::default();
            let mut before = 0;
            for (inode, cookie, value) in readings {
                totals.add(id(inode, cookie), SinceAgent, &counters(&[(OutRsts, value)]));
                let now = totals.totals().get(OutRsts).unwrap();
                prop_assert!(now >= before);
                before = now;
            }
        }
    }

    #[test]
    fn what_cannot_be_read_for_a_moment_neither_falls_nor_counts_twice() {
        let mut totals = KernelTotals::default();
        for (overflows, expected) in [(Some(5), 5), (None, 5), (Some(7), 7)] {
            let mut now = counters(&[(ListenDrops, 1)]);
            now.set(ListenOverflows, overflows);
            totals.add(id(1, 1), SinceAgent, &now);
            assert_eq!(totals.totals().get(ListenOverflows), Some(expected));
            assert_eq!(totals.totals().get(ListenDrops), Some(1));
        }
    }
}
