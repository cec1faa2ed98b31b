//! In which order the filters of an interface see packets: pure.
//!
//! The lowest priority comes first. Filters of one priority are of one kind and one protocol, and
//! of those made of programs the newest comes first
//! ([`cls_bpf_change`](https://github.com/torvalds/linux/blob/v6.1/net/sched/cls_bpf.c)). The
//! first that decides what becomes of a packet is the last to see it.

use super::filters::Filter;

/// Where there is no other. Low, and none that people write into their scripts: a filter of
/// another kind is refused a priority that is taken.
const ALONE: u16 = 16;

/// Where a filter can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The priority to ask for.
    pub priority: u16,
    /// Whether it sees every packet before the filters of others.
    pub is_first: bool,
}

/// Where there is room for a filter by this name among `filters`, of its own kind and for every
/// protocol: before those of other names, as long as there is.
pub(super) fn room(filters: &[Filter], name: &str) -> Room {
    let others = filters
        .iter()
        .filter(|filter| filter.handle != 0 && filter.name != name);
    let lowest = others.map(Filter::priority).min();
    let wanted = lowest.map_or(ALONE, |lowest| lowest.saturating_sub(1).max(1));
    let is_free = |priority: &u16| {
        let mut there = filters.iter();
        !there.any(|filter| filter.priority() == *priority && !filter.is_for_every_program())
    };
    let priority = (1..=wanted).rev().chain(wanted..=u16::MAX).find(is_free);
    let priority = priority.unwrap_or(wanted);
    Room {
        priority,
        is_first: lowest.is_none_or(|lowest| priority <= lowest),
    }
}

/// The filter of another that sees packets before that of this name and number, in the order in
/// which the kernel lists them. `None` also where ours is not there.
#[must_use]
pub fn before<'a>(filters: &'a [Filter], name: &str, handle: u32) -> Option<&'a Filter> {
    let ours = filters
        .iter()
        .position(|filter| filter.name == name && filter.handle == handle)?;
    filters[..ours].iter().find(|filter| filter.name != name)
}

#[cfg(test)]
mod tests {
    use super::{super::filters::tests::filter, *};

    const OURS: &str = "ours";

    #[test]
    fn a_filter_goes_before_those_of_others() {
        let program = |priority| filter("bpf", "other", priority, 1);
        let first = |priority| Room {
            priority,
            is_first: true,
        };
        for (there, expected) in [
            (vec![], first(ALONE)),
            (vec![program(0xc000)], first(0xbfff)),
            (vec![program(10), program(7), program(20)], first(6)),
            (vec![program(2)], first(1)),
            // Of one priority the newest comes first.
            (vec![program(1)], first(1)),
            (vec![filter("u32", "", 2, 1)], first(1)),
            // Nor does it need to be before others of its name.
            (vec![filter("bpf", OURS, 5, 1), program(9)], first(8)),
            (vec![filter("bpf", OURS, 5, 1)], first(ALONE)),
            // An empty one, which may be another's in the next moment.
            (vec![filter("u32", "", 8, 0), program(9)], first(7)),
        ] {
            assert_eq!(room(&there, OURS), expected, "{there:?}");
        }
    }

    #[test]
    fn where_there_is_no_room_before_others_it_is_said() {
        let behind = |priority| Room {
            priority,
            is_first: false,
        };
        let first = filter("u32", "", 1, 1);
        assert_eq!(room(std::slice::from_ref(&first), OURS), behind(2));
        let second = filter("flower", "", 2, 1);
        assert_eq!(room(&[first, second], OURS), behind(3));
        let one_protocol = Filter {
            info: 1 << 16 | u32::from(0x0800_u16.to_be()),
            ..filter("bpf", "other", 1, 1)
        };
        assert_eq!(room(&[one_protocol], OURS), behind(2));
    }

    #[test]
    fn who_sees_packets_first_is_told() {
        let filters = [
            filter("bpf", OURS, 1, 5),
            filter("u32", "", 2, 1),
            filter("bpf", OURS, 3, 6),
        ];
        assert_eq!(before(&filters, OURS, 5), None);
        assert_eq!(before(&filters, OURS, 6), Some(&filters[1]));
        assert_eq!(before(&filters, OURS, 7), None);
    }
}
