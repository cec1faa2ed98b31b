//! Where a walk over the list of processes can go on.
//!
//! A walk takes many runs, and between two of them any process may end. The one that the last run
//! ended at is then no way back into the list, but one that was walked over before it is: the kernel
//! adds at the end and keeps the order, so that what follows it and was walked over already is met
//! again, and left out by what is remembered of each.

use rustc_hash::FxHashMap;
use tcpstate_common::pass::{Anchor, MAX_ANCHORS};

use crate::host::process::ProcessId;

/// Each is at most so many times as far back as the one before it.
const THINNING: u64 = 4;

/// Processes at which runs have ended.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// By level, the last run whose number is a multiple of that power of [`THINNING`].
    levels: [Option<Anchor>; MAX_ANCHORS],
    runs: u64,
}

impl Trail {
    /// Where to go on, the latest first. Empty before the first run.
    pub(super) fn anchors(&self) -> ([Anchor; MAX_ANCHORS], u32) {
        let mut anchors = [Anchor::default(); MAX_ANCHORS];
        let mut count = 0;
        for anchor in self.levels.iter().flatten() {
            if count == 0 || anchors[count - 1] != *anchor {
                anchors[count] = *anchor;
                count += 1;
            }
        }
        (anchors, u32::try_from(count).unwrap_or(0))
    }

    /// A run has ended at this process.
    pub(super) fn note(&mut self, at: Anchor) {
        self.runs += 1;
        let mut every = 1;
        for level in &mut self.levels {
            if !self.runs.is_multiple_of(every) {
                break;
            }
            *level = Some(at);
            every *= THINNING;
        }
    }

    /// The walk has begun anew: nothing of the list as it was is left.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// How far the table of each process that has sockets was walked over.
#[derive(Debug, Default)]
pub(super) struct Reached(FxHashMap<ProcessId, u32>);

impl Reached {
    /// The first descriptor of a process that is new.
    pub(super) fn from(&self, process: ProcessId) -> u32 {
        self.0.get(&process).copied().unwrap_or(0)
    }

    /// Everything below `next` is known of a process.
    pub(super) fn note(&mut self, process: ProcessId, next: u32) {
        let reached = self.0.entry(process).or_default();
        *reached = next.max(*reached);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn anchor(tgid: u32) -> Anchor {
        Anchor {
            task: u64::from(tgid) << 12,
            start_ns: u64::from(tgid),
            tgid,
            padding: 0,
        }
    }

    #[test]
    fn what_is_kept_reaches_ever_further_back() {
        let mut trail = Trail::default();
        assert_eq!(trail.anchors().1, 0);
        for tgid in 1..=100 {
            trail.note(anchor(tgid));
        }
        let (anchors, count) = trail.anchors();
        let tgids: Vec<_> = anchors[..count as usize]
            .iter()
            .map(|anchor| anchor.tgid)
            .collect();
        assert_eq!(tgids, [100, 96, 64]);
    }

    #[test]
    fn one_large_process_is_one_anchor() {
        let mut trail = Trail::default();
        for _ in 0..1000 {
            trail.note(anchor(7));
        }
        assert_eq!(trail.anchors().1, 1);
    }

    /// What the kernel side does, over a list of processes with a few descriptors each.
    struct Kernel {
        list: VecDeque<Anchor>,
        at: Anchor,
        next: u32,
    }

    const DESCRIPTORS: u32 = 3;

    impl Kernel {
        /// Makes `steps` steps. Which descriptors it met, and whether it has come to the end.
        fn run(&mut self, trail: &Trail, steps: u32) -> (Vec<(Anchor, u32)>, bool) {
            let (anchors, count) = trail.anchors();
            let mut found = None;
            for (number, anchor) in anchors[..count as usize].iter().enumerate() {
                found = self.list.iter().position(|other| other == anchor);
                if let Some(place) = found {
                    if number > 0 {
                        self.next = 0;
                        found = Some(place + 1);
                    }
                    break;
                }
            }
            if found.is_none() {
                self.next = 0;
            }
            let mut place = found.unwrap_or(0);
            let mut met = Vec::new();
            for _ in 0..steps {
                if self.next == DESCRIPTORS {
                    place += 1;
                    self.next = 0;
                }
                if place >= self.list.len() {
                    return (met, true);
                }
                met.push((self.list[place], self.next));
                self.next += 1;
            }
            self.at = self.list[place.min(self.list.len() - 1)];
            (met, false)
        }
    }

    proptest! {
        /// The first stays, as the agent itself does.
        #[test]
        fn each_process_that_stays_is_walked_over_once(
            gone in prop::collection::vec((1_u32..200, 0_u32..60), 0..150),
            steps in 1_u32..20,
        ) {
            let mut kernel = Kernel {
                list: (0..200).map(anchor).collect(),
                at: anchor(0),
                next: 0,
            };
            let mut trail = Trail::default();
            let mut reached = Reached::default();
            let mut counted = BTreeMap::<u32, u32>::new();
            let mut is_done = false;
            for run in 0..10_000 {
                for (tgid, when) in &gone {
                    let place = kernel.list.iter().position(|other| other.tgid == *tgid);
                    if let Some(place) = place.filter(|_| *when == run) {
                        kernel.list.remove(place);
                        kernel.list.push_back(anchor(1000 + tgid));
                    }
                }
                let (met, is_end) = kernel.run(&trail, steps);
                for (process, descriptor) in met {
                    let id = ProcessId { tgid: process.tgid, start_boottime_ns: process.start_ns };
                    if descriptor >= reached.from(id) {
                        *counted.entry(process.tgid).or_default() += 1;
                        reached.note(id, descriptor + 1);
                    }
                }
                if is_end {
                    is_done = true;
                    break;
                }
                trail.note(kernel.at);
            }
            prop_assert!(is_done);
            for process in &kernel.list {
                prop_assert_eq!(counted.get(&process.tgid), Some(&DESCRIPTORS));
            }
            prop_assert!(counted.values().all(|count| *count <= DESCRIPTORS));
        }
    }
}
