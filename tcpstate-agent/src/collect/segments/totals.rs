//! What was counted, by the name of the interface: pure.
//!
//! The kernel side counts by the interface itself. A name can change, and its interface can go and
//! another come with it. So what comes is added to the name that the interface has at that moment,
//! and nothing is ever taken away.

use std::collections::{BTreeMap, VecDeque};

use tcpstate_common::SegmentCounts;

/// What one interface has counted, by [`Direction::slot`](tcpstate_common::Direction::slot).
pub type Counts = Box<[SegmentCounts; 2]>;

/// Sums by name.
#[derive(Debug, Default)]
pub struct Totals {
    by_name: BTreeMap<String, Counts>,
    last: BTreeMap<u32, Counts>,
    /// Names without an interface, the one that has been so for longest first.
    gone: VecDeque<String>,
}

/// Names of interfaces that are gone whose sums are kept, should they come back.
const KEPT: usize = 256;

impl Totals {
    /// Takes note of what the interface with this number and name has counted so far.
    pub fn observe(&mut self, index: u32, name: &str, now: Counts) {
        let zeros = || Box::new([SegmentCounts::ZERO; 2]);
        let last = self.last.get(&index);
        let sum = self.by_name.entry(name.to_owned()).or_insert_with(zeros);
        for direction in 0..2 {
            let last = last.map_or(&SegmentCounts::ZERO, |last| &last[direction]);
            sum[direction].add(&since(&now[direction], last));
        }
        self.last.insert(index, now);
        self.gone.retain(|gone| gone != name);
    }

    /// The interface with this number is no longer counted, as `name`. Its sums stay.
    pub fn forget(&mut self, index: u32, name: &str) {
        self.last.remove(&index);
        self.let_go_of_name(name);
    }

    /// No interface has this name any more. Its sums stay, as long as not too many others are let
    /// go of.
    pub fn let_go_of_name(&mut self, name: &str) {
        self.gone.retain(|gone| gone != name);
        self.gone.push_back(name.to_owned());
        if self.gone.len() > KEPT
            && let Some(oldest) = self.gone.pop_front()
        {
            self.by_name.remove(&oldest);
        }
    }

    /// The sums of a name; `None` where there never were any.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&[SegmentCounts; 2]> {
        self.by_name.get(name).map(AsRef::as_ref)
    }
}

fn since(now: &SegmentCounts, last: &SegmentCounts) -> SegmentCounts {
    let mut since = *now;
    for (count, last) in since.by_flags.iter_mut().zip(&last.by_flags) {
        *count = count.wrapping_sub(*last);
    }
    for (count, last) in since.skipped.iter_mut().zip(&last.skipped) {
        *count = count.wrapping_sub(*last);
    }
    since
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(syn: u64) -> Counts {
        let mut counts = Box::new([SegmentCounts::ZERO; 2]);
        counts[1].by_flags[2] = syn;
        counts[0].skipped[0] = syn;
        counts
    }

    fn shown(totals: &Totals, name: &str) -> Option<(u64, u64)> {
        let counts = totals.of(name)?;
        Some((counts[1].by_flags[2], counts[0].skipped[0]))
    }

    #[test]
    fn a_sum_goes_on_when_its_interface_comes_back_as_another() {
        let mut totals = Totals::default();
        totals.observe(5, "eth0", counts(3));
        totals.observe(5, "eth0", counts(10));
        totals.forget(5, "eth0");
        totals.observe(9, "eth0", counts(2));
        assert_eq!(shown(&totals, "eth0"), Some((12, 12)));
    }

    #[test]
    fn after_a_change_of_name_what_comes_is_added_to_the_new_one() {
        let mut totals = Totals::default();
        totals.observe(5, "eth0", counts(3));
        totals.observe(5, "wan", counts(4));
        totals.observe(5, "wan", counts(9));
        assert_eq!(shown(&totals, "eth0"), Some((3, 3)));
        assert_eq!(shown(&totals, "wan"), Some((6, 6)));
    }

    #[test]
    fn names_that_come_and_go_do_not_fill_the_memory() {
        let mut totals = Totals::default();
        for index in 0..2_000 {
            let name = format!("veth{index}");
            totals.observe(index, &name, counts(1));
            totals.forget(index, &name);
        }
        for index in 0..2_000 {
            // As container networks do it: made by one name, and then given another.
            let (before, name) = (format!("tmp{index}"), format!("lxc{index}"));
            totals.observe(index, &before, counts(1));
            totals.let_go_of_name(&before);
            totals.observe(index, &name, counts(2));
            totals.forget(index, &name);
        }
        assert_eq!(totals.by_name.len(), KEPT);
        assert!(totals.last.is_empty() && totals.gone.len() == KEPT);
    }
}
