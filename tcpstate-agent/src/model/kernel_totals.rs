//! The kernel's own counters of all namespaces together, as counters that start with the agent
//! and never go back.
//!
//! For each namespace what was read last is known, and what it rose since is added to the sums.
//! So a namespace that is gone leaves in them what it added.

use std::{collections::BTreeMap, time::Instant};

use tcpstate_common::NamespaceCounters;

use crate::netns::{KernelCounter, KernelCounters};

/// How many namespaces that are gone are remembered.
const REMEMBERED: usize = 1024;

/// The sums, and what was read last in each namespace.
#[derive(Debug, Default)]
pub struct KernelTotals {
    totals: KernelCounters,
    /// By inode number. Namespaces that are gone stay for a while: one that was only out of sight
    /// goes on from there.
    known: BTreeMap<u32, Known>,
}

/// What was read in a namespace at one time.
#[derive(Clone, Copy, Debug)]
pub struct KernelReading {
    /// The counters; without those of netstat where [`KernelTotals::needs_netstat`] said so.
    pub counters: KernelCounters,
    /// What was seen just before.
    pub signs: Signs,
    /// When reading began.
    pub begun: Instant,
    /// When it ended.
    pub ended: Instant,
}

/// What tells that counters of netstat may have risen: each comes of a segment that was received,
/// or goes with a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// The live counters.
    pub live: NamespaceCounters,
    /// Transitions on the whole machine that the live counters have missed.
    pub missed: u64,
    /// TCP segments received.
    pub segments_in: u64,
}

/// What counts of the values that a namespace has when it is first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there before the agent: nothing.
    BeforeAgent,
    /// It was made since: all.
    SinceAgent,
}

#[derive(Debug)]
struct Known {
    values: KernelCounters,
    signs: Signs,
    /// The signs were the same at the reading before: whatever they stand for has been counted.
    is_settled: bool,
    is_gone: bool,
    ended: Instant,
}

impl KernelTotals {
    /// What was added up. `None` for a counter that no namespace has.
    #[must_use]
    pub const fn totals(&self) -> &KernelCounters {
        &self.totals
    }

    /// Whether netstat, which costs more than all else, can tell anything new. The kernel counts
    /// some things a moment before or after they show, so it takes two readings with the same
    /// signs to be sure.
    #[must_use]
    pub fn needs_netstat(&self, namespace: u32, signs: &Signs) -> bool {
        self.known.get(&namespace).is_none_or(|known| {
            // Without live counters nothing tells of a change of state.
            signs.live.namespace == 0 || !known.is_settled || known.signs != *signs
        })
    }

    /// Whether a namespace was read since a time.
    #[must_use]
    pub fn is_read_since(&self, namespace: u32, time: Instant) -> bool {
        self.last_read(namespace).is_some_and(|last| last >= time)
    }

    /// When a namespace was last read.
    #[must_use]
    pub fn last_read(&self, namespace: u32) -> Option<Instant> {
        self.known.get(&namespace).map(|known| known.ended)
    }

    /// Adds what a namespace's counters rose since they were last read.
    pub fn add(&mut self, namespace: u32, mut origin: Origin, reading: &KernelReading) {
        let KernelReading {
            counters,
            signs,
            begun,
            ended,
        } = *reading;
        let known = self.known.entry(namespace).or_insert(Known {
            values: KernelCounters::default(),
            signs,
            is_settled: false,
            is_gone: false,
            ended: begun,
        });
        // Another thread read meanwhile. What is older than what is known would look like a fall.
        if begun < known.ended {
            return;
        }
        let is_first = known.values == KernelCounters::default();
        known.is_settled = !is_first && known.signs == signs;
        known.is_gone = false;
        known.signs = signs;
        known.ended = ended;
        if has_fallen(&known.values, &counters) {
            // Another namespace has got the number.
            known.start_over();
            origin = Origin::SinceAgent;
        }
        for counter in KernelCounter::ALL {
            let Some(now) = counters.get(counter) else {
                continue;
            };
            let base = known.values.get(counter).unwrap_or(match origin {
                Origin::BeforeAgent => now,
                Origin::SinceAgent => 0,
            });
            let total = self.totals.get(counter).unwrap_or(0);
            let total = total.saturating_add(now.saturating_sub(base));
            self.totals.set(counter, Some(total));
            known.values.set(counter, Some(now));
        }
    }

    /// Takes note that a namespace is gone. One that has its number later is another one, or has
    /// been out of sight.
    pub fn note_gone(&mut self, namespace: u32) {
        if let Some(known) = self.known.get_mut(&namespace) {
            known.is_settled = false;
            known.is_gone = true;
        }
        let gone = || self.known.iter().filter(|(_, known)| known.is_gone);
        if gone().count() > REMEMBERED
            && let Some((&oldest, _)) = gone().min_by_key(|(_, known)| known.ended)
        {
            self.known.remove(&oldest);
        }
    }
}

impl Known {
    /// What is known from here on is of a namespace that began with zeros.
    fn start_over(&mut self) {
        self.is_settled = false;
        for counter in KernelCounter::ALL {
            let zero = self.values.get(counter).map(|_| 0);
            self.values.set(counter, zero);
        }
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
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use KernelCounter::{ListenDrops, ListenOverflows, OutRsts};
    use Origin::{BeforeAgent, SinceAgent};

    /// A history of readings, each a second after the one before.
    struct History {
        totals: KernelTotals,
        now: Instant,
    }

    impl History {
        fn new() -> Self {
            Self {
                totals: KernelTotals::default(),
                now: Instant::now(),
            }
        }

        fn add(&mut self, namespace: u32, origin: Origin, values: &[(KernelCounter, u64)]) {
            self.now += Duration::from_secs(1);
            let reading = reading(self.now, values);
            self.totals.add(namespace, origin, &reading);
        }

        fn total(&self, counter: KernelCounter) -> Option<u64> {
            self.totals.totals().get(counter)
        }
    }

    fn reading(begun: Instant, values: &[(KernelCounter, u64)]) -> KernelReading {
        let mut counters = KernelCounters::default();
        for (counter, value) in values {
            counters.set(*counter, Some(*value));
        }
        KernelReading {
            counters,
            signs: signs(0),
            begun,
            ended: begun + Duration::from_millis(1),
        }
    }

    fn signs(segments_in: u64) -> Signs {
        Signs {
            live: NamespaceCounters {
                namespace: 1,
                ..NamespaceCounters::default()
            },
            missed: 0,
            segments_in,
        }
    }

    #[test]
    fn what_was_counted_before_the_agent_does_not_count() {
        let mut history = History::new();
        history.add(1, BeforeAgent, &[(OutRsts, 1000)]);
        assert_eq!(history.total(OutRsts), Some(0));
        history.add(1, BeforeAgent, &[(OutRsts, 1003)]);
        assert_eq!(history.total(OutRsts), Some(3));
    }

    #[test]
    fn a_namespace_made_since_counts_from_zero() {
        let mut history = History::new();
        history.add(1, BeforeAgent, &[(OutRsts, 1000)]);
        history.add(2, SinceAgent, &[(OutRsts, 7)]);
        assert_eq!(history.total(OutRsts), Some(7));
    }

    #[test]
    fn a_namespace_that_is_gone_leaves_what_it_added() {
        let mut history = History::new();
        history.add(1, SinceAgent, &[(OutRsts, 5)]);
        history.totals.note_gone(1);
        history.add(2, SinceAgent, &[(OutRsts, 1)]);
        assert_eq!(history.total(OutRsts), Some(6));
    }

    #[test]
    fn one_that_gets_the_number_of_another_starts_over_with_every_counter() {
        let mut history = History::new();
        history.add(1, BeforeAgent, &[(OutRsts, 100), (ListenDrops, 3)]);
        history.totals.note_gone(1);
        // One is lower than it was; so the other, though higher, is all new.
        history.add(1, SinceAgent, &[(OutRsts, 2), (ListenDrops, 4)]);
        assert_eq!(history.total(OutRsts), Some(2));
        assert_eq!(history.total(ListenDrops), Some(4));
    }

    #[test]
    fn one_that_starts_over_counts_what_is_read_of_it_later() {
        let mut history = History::new();
        history.add(1, BeforeAgent, &[(OutRsts, 100), (ListenDrops, 3)]);
        history.add(1, BeforeAgent, &[(OutRsts, 2)]);
        history.add(1, BeforeAgent, &[(OutRsts, 2), (ListenDrops, 1)]);
        assert_eq!(history.total(ListenDrops), Some(1));
    }

    #[test]
    fn one_that_was_out_of_sight_goes_on_where_it_was() {
        let mut history = History::new();
        history.add(1, BeforeAgent, &[(OutRsts, 100)]);
        history.totals.note_gone(1);
        history.add(1, SinceAgent, &[(OutRsts, 101)]);
        assert_eq!(history.total(OutRsts), Some(1));
    }

    #[test]
    fn those_that_are_gone_are_not_remembered_without_end() {
        let mut history = History::new();
        history.add(0, SinceAgent, &[(OutRsts, 1)]);
        for namespace in 1..3000 {
            history.add(namespace, SinceAgent, &[(OutRsts, 1)]);
            history.totals.note_gone(namespace);
        }
        assert_eq!(history.totals.known.len(), REMEMBERED + 1);
        assert!(history.totals.last_read(0).is_some());
        assert_eq!(history.total(OutRsts), Some(3000));
    }

    #[test]
    fn a_counter_that_no_namespace_has_is_not_known() {
        let mut history = History::new();
        history.add(1, BeforeAgent, &[(OutRsts, 1)]);
        assert_eq!(history.total(ListenDrops), None);
        // Another has it, or this one later; what it had then is not known to be new.
        history.add(1, BeforeAgent, &[(OutRsts, 1), (ListenDrops, 50)]);
        assert_eq!(history.total(ListenDrops), Some(0));
        history.add(1, BeforeAgent, &[(OutRsts, 1)]);
        history.add(1, BeforeAgent, &[(OutRsts, 1), (ListenDrops, 52)]);
        assert_eq!(history.total(ListenDrops), Some(2));
        assert_eq!(history.total(ListenOverflows), None);
    }

    #[test]
    fn sums_end_at_the_greatest_number() {
        let mut history = History::new();
        history.add(1, SinceAgent, &[(OutRsts, u64::MAX)]);
        history.add(2, SinceAgent, &[(OutRsts, u64::MAX)]);
        history.add(2, SinceAgent, &[(OutRsts, 0)]);
        history.add(2, SinceAgent, &[(OutRsts, 9)]);
        assert_eq!(history.total(OutRsts), Some(u64::MAX));
    }

    #[test]
    fn a_reading_that_began_before_the_last_one_ended_is_no_fall() {
        let mut totals = KernelTotals::default();
        let start = Instant::now();
        let slow = reading(start, &[(OutRsts, 10)]);
        let quick = reading(start + Duration::from_micros(1), &[(OutRsts, 12)]);
        totals.add(1, SinceAgent, &quick);
        totals.add(1, SinceAgent, &slow);
        assert_eq!(totals.totals().get(OutRsts), Some(12));
    }

    #[test]
    fn netstat_is_read_until_the_signs_stay_the_same() {
        let mut totals = KernelTotals::default();
        let mut now = Instant::now();
        let mut read = |totals: &mut KernelTotals, segments_in| {
            now += Duration::from_secs(1);
            let needed = totals.needs_netstat(1, &signs(segments_in));
            let reading = KernelReading {
                signs: signs(segments_in),
                ..reading(now, &[(OutRsts, 1)])
            };
            totals.add(1, BeforeAgent, &reading);
            needed
        };
        assert!(read(&mut totals, 5), "never read");
        assert!(read(&mut totals, 5), "read once");
        assert!(!read(&mut totals, 5));
        assert!(read(&mut totals, 6), "a segment came");
        assert!(read(&mut totals, 6), "read once since");
        assert!(!read(&mut totals, 6));
        totals.note_gone(1);
        assert!(read(&mut totals, 6), "perhaps another one");
    }

    #[test]
    fn without_live_counters_netstat_is_always_read() {
        let mut totals = KernelTotals::default();
        let blind = Signs {
            live: NamespaceCounters::default(),
            ..signs(5)
        };
        let mut now = Instant::now();
        for _ in 0..3 {
            assert!(totals.needs_netstat(1, &blind));
            now += Duration::from_secs(1);
            let reading = KernelReading {
                signs: blind,
                ..reading(now, &[(OutRsts, 1)])
            };
            totals.add(1, BeforeAgent, &reading);
        }
    }

    proptest! {
        #[test]
        fn sums_never_go_back(
            readings in prop::collection::vec((0..4_u32, any::<bool>(), any::<Option<u64>>(), 0..9_u64, any::<bool>()), 0..60),
        ) {
            let mut history = History::new();
            let mut last = (0, 0);
            for (namespace, is_new, out_rsts, drops, is_gone) in readings {
                let origin = if is_new { SinceAgent } else { BeforeAgent };
                let mut values = vec![(ListenDrops, drops)];
                values.extend(out_rsts.map(|value| (OutRsts, value)));
                history.add(namespace, origin, &values);
                if is_gone {
                    history.totals.note_gone(namespace);
                }
                let now = (
                    history.total(OutRsts).unwrap_or(0),
                    history.total(ListenDrops).unwrap_or(0),
                );
                prop_assert!(now.0 >= last.0 && now.1 >= last.1);
                last = now;
            }
        }
    }
}
