//! What lies below an interface.

use std::collections::BTreeSet;

use tracing::debug;

use crate::host::netlink::{Interface, Merging, Offloads};

/// What an XDP program would do to an interface, or not see on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// Its driver has the interfaces below it run its program, each by its own number.
    pub hands_on: bool,
    /// What puts segments together, and on which interface: this one or one below it.
    pub merging: Vec<(String, Merging)>,
}

impl Below {
    /// What lies below `interface`, which is one of `all`. Without `offloads` nothing is known of
    /// what puts segments together.
    #[must_use]
    pub fn ask(
        interface: &Interface,
        all: &[Interface],
        mut offloads: Option<&mut Offloads>,
    ) -> Self {
        Self::new(interface, all, |index| {
            let answer = offloads.as_mut().map(|offloads| offloads.merging(index));
            answer
                .transpose()
                .inspect_err(|error| debug!(%error, index, "cannot ask what an interface does"))
                .ok()
                .flatten()
                .unwrap_or_default()
        })
    }

    /// The same, where `merging` tells what is on on an interface. Pure.
    fn new(
        interface: &Interface,
        all: &[Interface],
        mut merging: impl FnMut(u32) -> Vec<Merging>,
    ) -> Self {
        let mut found = Vec::new();
        for index in with_all_below(interface.index, all) {
            let name = all.iter().find(|other| other.index == index);
            let name = name.map(|other| &*other.name).unwrap_or_default();
            for merging in merging(index) {
                // The kernel turns LRO off on what is below too, the other only where asked to:
                // https://github.com/torvalds/linux/blob/v6.12/net/core/dev.c
                if merging == Merging::Lro || index == interface.index {
                    found.push((name.to_owned(), merging));
                }
            }
        }
        Self {
            hands_on: hands_on(interface, all),
            merging: found,
        }
    }
}

/// Whether a driver has others run its program: bonds, which do not need to have any yet, and the
/// cards of virtual machines that a part of a real one stands in for (`hv_netvsc`).
pub(super) fn hands_on(interface: &Interface, all: &[Interface]) -> bool {
    let mut all = all.iter();
    match &*interface.kind {
        "bond" => true,
        "" => all.any(|other| other.master == Some(interface.index)),
        _ => false,
    }
}

fn with_all_below(index: u32, all: &[Interface]) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([index]);
    let mut to_look_at = vec![index];
    while let Some(upper) = to_look_at.pop() {
        for other in all {
            let is_part = other.master == Some(upper);
            let carries = other.index == upper;
            let lower = [
                is_part.then_some(other.index),
                other.link.filter(|_| carries),
            ];
            to_look_at.extend(
                lower
                    .into_iter()
                    .flatten()
                    .filter(|lower| found.insert(*lower)),
            );
        }
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::collect::segments) fn interface(index: u32, kind: &str) -> Interface {
        Interface {
            index,
            name: format!("eth{index}"),
            link_type: 1,
            mtu: 9000,
            kind: kind.to_owned(),
            master: None,
            link: None,
            xdp: None,
        }
    }

    /// A VLAN 4 on a bond 3 of two cards, 1 and 2, and another card, 5.
    fn all() -> Vec<Interface> {
        let port = |index| Interface {
            master: Some(3),
            ..interface(index, "")
        };
        let vlan = Interface {
            link: Some(3),
            ..interface(4, "vlan")
        };
        vec![
            port(1),
            port(2),
            interface(3, "bond"),
            vlan,
            interface(5, ""),
        ]
    }

    #[test]
    fn what_would_be_turned_off_is_found_wherever_it_is_below() {
        let all = all();
        let merging = |index| match index {
            2 => vec![Merging::Lro, Merging::GroHw],
            _ => vec![],
        };
        let found = |index: usize| Below::new(&all[index], &all, merging).merging;
        let lro = ("eth2".to_owned(), Merging::Lro);
        assert_eq!(found(3), std::slice::from_ref(&lro));
        assert_eq!(found(2), std::slice::from_ref(&lro));
        assert_eq!(found(1), [lro, ("eth2".to_owned(), Merging::GroHw)]);
        assert_eq!(found(0), []);
        assert_eq!(found(4), []);
    }

    #[test]
    fn who_hands_its_program_on_is_known() {
        let mut all = all();
        let handing_on = |all: &[Interface]| -> Vec<u32> {
            let handing_on = all.iter().filter(|interface| hands_on(interface, all));
            handing_on.map(|interface| interface.index).collect()
        };
        assert_eq!(handing_on(&all), [3]);
        let virtual_function = Interface {
            master: Some(5),
            ..interface(6, "")
        };
        all.push(virtual_function);
        assert_eq!(handing_on(&all), [3, 5]);
        let bridge = interface(7, "bridge");
        let port = Interface {
            master: Some(7),
            ..interface(8, "veth")
        };
        all.extend([bridge, port]);
        assert_eq!(handing_on(&all), [3, 5]);
    }

    #[test]
    fn interfaces_that_lie_on_each_other_are_no_endless_road() {
        let pair = [(1, 2), (2, 1)].map(|(index, link)| Interface {
            link: Some(link),
            ..interface(index, "veth")
        });
        assert_eq!(with_all_below(1, &pair), BTreeSet::from([1, 2]));
    }
}
