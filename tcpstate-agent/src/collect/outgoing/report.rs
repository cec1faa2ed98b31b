//! Where outgoing connections go, which part of the ports they take, and which peers do not
//! answer.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{NamespaceOutgoing, Way};
use crate::{
    collect::{
        owners::{ReportProcess, Reporter},
        unanswered::ReportUnanswered,
    },
    engine::Connections,
};

/// Ways that take a smaller part of the ports are not reported.
const SMALL_PART: f64 = 0.01;
/// More than that are not reported either, the greatest parts come first.
const MOST_DESTINATIONS: usize = 1000;
/// More groups are not reported, the largest come first.
const MOST_GROUPS: usize = 1000;

/// The connections of all namespaces at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionsReport {
    /// Where outgoing ones go, the greatest part of the ports first.
    pub destinations: Vec<ReportDestination>,
    /// Those whose peers do not answer, the largest group first.
    pub unanswered: Vec<ReportUnanswered>,
}

/// The connections from one local address to one destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportDestination {
    /// The process that has most of them; `None` where none has: TIME_WAIT belongs to nobody.
    pub process: Option<ReportProcess>,
    /// Numbers of other processes that have some.
    pub shared_with: Vec<u32>,
    /// Their names, each once.
    pub shared_names: Vec<String>,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// Where they come from.
    pub local_address: IpAddr,
    /// Where they go.
    pub remote_address: IpAddr,
    /// The port there.
    pub remote_port: u16,
    /// Ports that there are for going there from here.
    pub ports: u32,
    /// Ports that are taken, by sockets in any state.
    pub held: u32,
    /// Sockets in TIME_WAIT.
    pub time_wait: u32,
    /// Taken ports in TIME_WAIT that `connect()` may take over (`tcp_tw_reuse`).
    pub reusable: u32,
}

impl ConnectionsReport {
    /// What was found.
    #[must_use]
    pub fn new(found: &Connections) -> Self {
        let ways = found.outgoing.iter().flat_map(|(inode, outgoing)| {
            let ways = outgoing.ways.iter();
            ways.filter_map(|way| ReportDestination::new(*inode, outgoing, way))
        });
        let mut destinations: Vec<_> = ways.collect();
        destinations.sort_by(|one, other| {
            let order = other.part().total_cmp(&one.part());
            order.then(one.remote_address.cmp(&other.remote_address))
        });
        destinations.truncate(MOST_DESTINATIONS);
        let mut reporter = Reporter::default();
        for destination in &mut destinations {
            let to = SocketAddr::new(destination.remote_address, destination.remote_port);
            let holders = found.port_holders.get(&(destination.namespace, to));
            if let Some((first, others)) = holders.and_then(|holders| holders.split_first()) {
                let names: BTreeSet<_> = others.iter().map(|other| other.name.clone()).collect();
                destination.process = Some(reporter.describe(first));
                destination.shared_with = others.iter().map(|other| other.id.tgid).collect();
                destination.shared_names = names.into_iter().collect();
            }
        }
        let groups = found.unanswered.iter();
        let mut unanswered: Vec<_> = groups
            .filter_map(|(key, tally)| ReportUnanswered::new(key, tally, &mut reporter))
            .collect();
        unanswered.sort_by_key(|group| std::cmp::Reverse(group.sockets));
        unanswered.truncate(MOST_GROUPS);
        Self {
            destinations,
            unanswered,
        }
    }
}

impl ReportDestination {
    fn new(namespace: u32, outgoing: &NamespaceOutgoing, way: &Way) -> Option<Self> {
        let Way {
            local,
            remote,
            held,
            time_wait,
            reusable,
        } = *way;
        let is_some = outgoing.part(held)? >= SMALL_PART;
        is_some.then_some(Self {
            process: None,
            shared_with: Vec::new(),
            shared_names: Vec::new(),
            namespace,
            local_address: local,
            remote_address: remote.ip(),
            remote_port: remote.port(),
            ports: outgoing.ports?,
            held,
            time_wait,
            reusable,
        })
    }

    /// Ports that `connect()` cannot get.
    #[must_use]
    pub const fn busy(&self) -> u32 {
        self.held.saturating_sub(self.reusable)
    }

    /// Ports that it can still get.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.ports.saturating_sub(self.busy())
    }

    /// Which part of the ports it cannot get.
    #[must_use]
    pub fn part(&self) -> f64 {
        if self.left() == 0 {
            return 1.0;
        }
        f64::from(self.busy()) / f64::from(self.ports)
    }

    /// Whether `other` goes the same way at another time.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |way: &Self| {
            (
                way.namespace,
                way.local_address,
                way.remote_address,
                way.remote_port,
            )
        };
        key(self) == key(other)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::collect::outgoing::NamedPortHolders;

    pub(crate) fn destination(held: u32, time_wait: u32, reusable: u32) -> ReportDestination {
        ReportDestination {
            process: None,
            shared_with: Vec::new(),
            shared_names: Vec::new(),
            namespace: crate::diagnosis::compare::tests::HERE,
            local_address: "10.0.0.1".parse().unwrap(),
            remote_address: "10.0.0.2".parse().unwrap(),
            remote_port: 443,
            ports: 1000,
            held,
            time_wait,
            reusable,
        }
    }

    #[test]
    fn what_may_be_taken_over_is_not_taken() {
        let way = destination(900, 800, 700);
        assert_eq!((way.busy(), way.left()), (200, 800));
        assert!((way.part() - 0.2).abs() < 1e-9);
        let full = destination(1000, 1000, 0);
        assert_eq!((full.left(), full.part()), (0, 1.0));
    }

    #[test]
    fn what_matters_is_reported_and_the_worst_first() {
        let way = |number: u8, held| Way {
            local: "10.0.0.1".parse().unwrap(),
            remote: ([10, 0, 1, number], 80).into(),
            held,
            time_wait: 0,
            reusable: 0,
        };
        let outgoing = NamespaceOutgoing {
            ports: Some(1000),
            ways: vec![way(1, 9), way(2, 10), way(3, 500)],
            ..NamespaceOutgoing::default()
        };
        let unread = NamespaceOutgoing {
            ports: None,
            ..outgoing.clone()
        };
        let found = Connections {
            outgoing: vec![(1, outgoing), (2, unread)],
            unanswered: std::collections::BTreeMap::new(),
            port_holders: NamedPortHolders::default(),
        };
        let report = ConnectionsReport::new(&found);
        let held: Vec<u32> = report.destinations.iter().map(|way| way.held).collect();
        assert_eq!(held, [500, 10]);
    }
}
