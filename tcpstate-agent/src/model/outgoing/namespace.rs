//! The outgoing connections of one network namespace, as its last snapshot has found them.

use std::{cmp::Reverse, net::IpAddr, net::SocketAddr};

use tcpstate_common::SocketCounts;

use super::Reuse;
use crate::{decode::Outgoing, netns::PortRules};

/// Ways of a namespace that are remembered: so many of those that hold most ports, and so many of
/// those with most sockets in TIME_WAIT.
const REMEMBERED: usize = 512;

/// The connections from one local address to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where they come from.
    pub local: IpAddr,
    /// Where they go.
    pub remote: SocketAddr,
    /// Ports that they hold of those that the kernel chooses, in any state.
    pub held: u32,
    /// Sockets in TIME_WAIT.
    pub time_wait: u32,
    /// Held ports in TIME_WAIT that `connect()` may take over.
    pub reusable: u32,
}

/// What is known of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceOutgoing {
    /// Ports that there are for one way. `None` where the settings cannot be read.
    pub ports: Option<u32>,
    /// The ways with most ports or sockets.
    pub ways: Vec<Way>,
    /// How many ways are not among them.
    pub forgotten: u64,
    /// Sockets in TIME_WAIT that go other ways.
    pub other_time_wait: u64,
    /// Most ports that another way holds.
    pub other_held: u32,
    /// Sockets whose way there was no room for in the kernel: they are in
    /// `other_time_wait`, and hold ports that are in no ratio.
    pub unplaced: u64,
    /// How many minisockets there may be.
    pub max_tw_buckets: Option<u64>,
}

impl NamespaceOutgoing {
    /// Puts together what a pass has `counted`, the ways it has `found`, and the settings.
    #[must_use]
    pub fn new(counted: &SocketCounts, found: Vec<Outgoing>, rules: &PortRules) -> Self {
        let reuse = rules.tw_reuse.and_then(Reuse::from_kernel);
        let choosable = rules.choosable.as_ref();
        let choosable =
            choosable.map(|ports| ports.iter().map(|word| word.count_ones()).sum::<u32>());
        let mut ways: Vec<Way> = found
            .into_iter()
            .map(|found| Way::new(found, reuse))
            .collect();
        let forgotten = forget(&mut ways);
        Self {
            ports: choosable.map(|ports| ports.saturating_sub(counted.bound_ports)),
            ways,
            forgotten: forgotten.len().try_into().unwrap_or(u64::MAX),
            other_time_wait: counted.unplaced_time_wait
                + forgotten
                    .iter()
                    .map(|way| u64::from(way.time_wait))
                    .sum::<u64>(),
            other_held: forgotten.iter().map(|way| way.held).max().unwrap_or(0),
            unplaced: counted.unplaced_held.max(counted.unplaced_time_wait),
            max_tw_buckets: rules.max_tw_buckets,
        }
    }

    /// Which part of the ports is taken where `held` are. `None` where it is not known how many
    /// there are.
    #[must_use]
    pub fn part(&self, held: u32) -> Option<f64> {
        let ports = self.ports?;
        // Where more are held than there are, the settings have changed meanwhile.
        Some(if held >= ports && held > 0 {
            1.0
        } else {
            f64::from(held) / f64::from(ports.max(1))
        })
    }
}

impl Way {
    fn new(found: Outgoing, reuse: Option<Reuse>) -> Self {
        let Outgoing {
            local,
            remote,
            held,
            time_wait,
            reusable,
        } = found;
        let may = reuse.is_some_and(|reuse| reuse.applies(local, remote.ip()));
        Self {
            local,
            remote,
            held,
            time_wait,
            reusable: if may { reusable } else { 0 },
        }
    }
}

/// Leaves those to be remembered, and returns the others.
fn forget(ways: &mut Vec<Way>) -> Vec<Way> {
    if ways.len() <= REMEMBERED {
        return Vec::new();
    }
    ways.sort_unstable_by_key(|way| (Reverse(way.held), way.remote, way.local));
    let mut others = ways.split_off(REMEMBERED);
    others.sort_unstable_by_key(|way| (Reverse(way.time_wait), way.remote, way.local));
    let forgotten = others.split_off(REMEMBERED.min(others.len()));
    ways.append(&mut others);
    forgotten
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::model::outgoing) fn rules(choosable: u32) -> PortRules {
        let mut ports = Box::new([0; 1024]);
        for port in 0..choosable as usize {
            ports[port / 64] |= 1 << (port % 64);
        }
        PortRules {
            choosable: Some(ports),
            tw_reuse: Some(1),
            max_tw_buckets: Some(100),
        }
    }

    fn outgoing(number: u32, held: u32, time_wait: u32) -> Outgoing {
        Outgoing {
            local: "10.0.0.1".parse().unwrap(),
            remote: SocketAddr::new(std::net::Ipv4Addr::from(number).into(), 80),
            held,
            time_wait,
            reusable: time_wait.min(held),
        }
    }

    #[test]
    fn the_part_is_of_the_ports_that_nobody_has_bound() {
        let counted = SocketCounts {
            bound_ports: 10,
            ..SocketCounts::default()
        };
        let found = NamespaceOutgoing::new(&counted, vec![outgoing(1, 45, 0)], &rules(100));
        assert_eq!(found.ports, Some(90));
        assert_eq!(found.part(45), Some(0.5));
        assert_eq!(found.part(90), Some(1.0));
        assert_eq!(found.part(91), Some(1.0), "the range was made smaller");
        assert_eq!(found.part(0), Some(0.0));
    }

    #[test]
    fn a_range_that_is_all_bound_is_taken_by_whoever_holds_one() {
        let counted = SocketCounts {
            bound_ports: 4,
            ..SocketCounts::default()
        };
        let found = NamespaceOutgoing::new(&counted, Vec::new(), &rules(4));
        assert_eq!((found.part(0), found.part(1)), (Some(0.0), Some(1.0)));
    }

    #[test]
    fn without_the_range_no_part_is_known() {
        let unread = PortRules {
            choosable: None,
            ..rules(0)
        };
        let found = NamespaceOutgoing::new(&SocketCounts::default(), Vec::new(), &unread);
        assert_eq!(found.part(1), None);
    }

    #[test]
    fn without_reuse_nothing_can_be_taken_over() {
        for (setting, reusable) in [(Some(0), 0), (Some(1), 3), (Some(2), 0), (None, 0)] {
            let rules = PortRules {
                tw_reuse: setting,
                ..rules(10)
            };
            let way = vec![outgoing(1, 3, 3)];
            let found = NamespaceOutgoing::new(&SocketCounts::default(), way, &rules);
            assert_eq!(found.ways[0].reusable, reusable, "{setting:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_greatest_are_remembered(
            all in prop::collection::vec((0_u32..100, 0_u32..100), 0..3000),
            unplaced in 0_u64..100,
        ) {
            let counted = SocketCounts { unplaced_time_wait: unplaced, ..SocketCounts::default() };
            let ways = (0..).zip(&all).map(|(number, (held, time_wait))| outgoing(number, *held, *time_wait));
            let found = NamespaceOutgoing::new(&counted, ways.collect(), &rules(1000));
            prop_assert_eq!(found.ways.len() as u64 + found.forgotten, all.len() as u64);
            prop_assert!(found.ways.len() <= 2 * REMEMBERED);
            let time_wait: u64 = found.ways.iter().map(|way| u64::from(way.time_wait)).sum();
            let truth: u64 = all.iter().map(|(_, time_wait)| u64::from(*time_wait)).sum();
            prop_assert_eq!(time_wait + found.other_time_wait, truth + unplaced);
            let most = all.iter().map(|(held, _)| *held).max().unwrap_or(0);
            prop_assert_eq!(found.ways.iter().map(|way| way.held).max().unwrap_or(0), most);
            prop_assert!(found.other_held <= most);
        }
    }
}
