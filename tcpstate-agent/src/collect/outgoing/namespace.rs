//! The outgoing connections of one network namespace, as its last snapshot has found them.

use std::{cmp::Reverse, net::IpAddr, net::SocketAddr};

use super::{Destination, DestinationCounts, DestinationTable, Reuse};

/// Ways of a namespace that are remembered: so many of those that hold most ports, and so many of
/// those with most sockets in TIME_WAIT.
const REMEMBERED: usize = 512;

/// What decides which local ports outgoing connections get, and how long they keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// Ports that `connect()` may choose for one destination: those of `ip_local_port_range` that
    /// are neither in `ip_local_reserved_ports` nor bound.
    pub ports: u32,
    /// `tcp_tw_reuse`: whether `connect()` takes over ports in TIME_WAIT. 0 never, 1 those with
    /// timestamps after a second, 2 the same on loopback only.
    pub tw_reuse: u64,
    /// `tcp_max_tw_buckets`: how many minisockets there may be.
    pub max_tw_buckets: u64,
}

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
    /// Puts together what a pass has found, and the settings.
    #[must_use]
    pub fn new(found: DestinationTable, rules: PortRules) -> Self {
        let reuse = Reuse::from_kernel(rules.tw_reuse);
        let (held, time_wait) = (found.unplaced_held, found.unplaced_time_wait);
        let ways = found.into_found();
        let mut ways: Vec<Way> = ways.map(|found| Way::new(found, reuse)).collect();
        let forgotten = forget(&mut ways);
        Self {
            ports: Some(rules.ports),
            ways,
            forgotten: forgotten.len().try_into().unwrap_or(u64::MAX),
            other_time_wait: time_wait
                + forgotten
                    .iter()
                    .map(|way| u64::from(way.time_wait))
                    .sum::<u64>(),
            other_held: forgotten.iter().map(|way| way.held).max().unwrap_or(0),
            unplaced: held.max(time_wait),
            max_tw_buckets: Some(rules.max_tw_buckets),
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
    fn new((destination, counts): (Destination, DestinationCounts), reuse: Option<Reuse>) -> Self {
        let Destination { local, remote } = destination;
        let DestinationCounts {
            held,
            time_wait,
            reusable,
        } = counts;
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
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::collect::outgoing) fn rules(ports: u32) -> PortRules {
        PortRules {
            ports,
            tw_reuse: 1,
            max_tw_buckets: 100,
        }
    }

    /// A table with so many sockets for each destination: those that hold a port, and of these in
    /// TIME_WAIT.
    pub(in crate::collect::outgoing) fn table(
        all: impl IntoIterator<Item = (u32, u32, u32)>,
    ) -> DestinationTable {
        let mut table = DestinationTable::default();
        for (number, held, time_wait) in all {
            let destination = Destination {
                local: IpAddr::from([10, 0, 0, 1]),
                remote: SocketAddr::new(std::net::Ipv4Addr::from(number).into(), 80),
            };
            for socket in 0..held.max(time_wait) {
                table.add(destination, socket < held, socket < time_wait, true);
            }
        }
        table
    }

    #[test]
    fn the_part_is_of_the_ports_that_there_are_for_one_destination() {
        let found = NamespaceOutgoing::new(table([(1, 45, 0)]), rules(90));
        assert_eq!(found.part(45), Some(0.5));
        assert_eq!(found.part(90), Some(1.0));
        assert_eq!(found.part(91), Some(1.0), "the range was made smaller");
        assert_eq!(found.part(0), Some(0.0));
    }

    #[test]
    fn a_range_that_is_all_bound_is_taken_by_whoever_holds_one() {
        let found = NamespaceOutgoing::new(table([]), rules(0));
        assert_eq!((found.part(0), found.part(1)), (Some(0.0), Some(1.0)));
    }

    #[test]
    fn without_reuse_nothing_can_be_taken_over() {
        for (tw_reuse, reusable) in [(0, 0), (1, 3), (2, 0), (9, 0)] {
            let rules = PortRules {
                tw_reuse,
                ..rules(10)
            };
            let found = NamespaceOutgoing::new(table([(1, 3, 3)]), rules);
            assert_eq!(found.ways[0].reusable, reusable, "{tw_reuse}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_greatest_are_remembered(
            all in prop::collection::vec((0_u32..20, 0_u32..20), 0..3000),
        ) {
            let all: Vec<_> = all.into_iter().filter(|(held, time_wait)| held + time_wait > 0).collect();
            let numbered = (0..).zip(&all).map(|(number, (held, time_wait))| (number, *held, *time_wait));
            let found = NamespaceOutgoing::new(table(numbered), rules(1000));
            prop_assert_eq!(found.ways.len() as u64 + found.forgotten, all.len() as u64);
            prop_assert!(found.ways.len() <= 2 * REMEMBERED);
            let time_wait: u64 = found.ways.iter().map(|way| u64::from(way.time_wait)).sum();
            let truth: u64 = all.iter().map(|(_, time_wait)| u64::from(*time_wait)).sum();
            prop_assert_eq!(time_wait + found.other_time_wait, truth);
            let most = all.iter().map(|(held, _)| *held).max().unwrap_or(0);
            let kept = found.ways.iter().map(|way| way.held).max().unwrap_or(0);
            prop_assert_eq!(kept, most);
        }
    }
}
