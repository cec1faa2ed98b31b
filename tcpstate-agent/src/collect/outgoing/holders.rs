//! Who holds the local ports that are running out, as far as a process does: TIME_WAIT has none.

use std::{cmp::Reverse, net::SocketAddr, sync::Arc};

use rustc_hash::FxHashMap;

use super::NamespaceOutgoing;
use crate::{
    decode::Owner,
    host::process::{Process, ProcessId},
};

/// It is not asked who holds a smaller part of the ports.
const WORTH_ASKING: f64 = 0.25;

/// Where connections go: inode number of the network namespace, and the destination.
type Destined = (u32, SocketAddr);

/// How many connections each process has to the destinations that most ports are held towards.
#[derive(Debug, Default)]
pub struct PortHolders(FxHashMap<Destined, FxHashMap<ProcessId, u64>>);

/// The processes that have some, those with most first.
pub type NamedPortHolders = FxHashMap<Destined, Vec<Arc<Process>>>;

impl PortHolders {
    /// Nobody yet, of where these connections go.
    pub fn of<'a>(outgoing: impl Iterator<Item = (u32, &'a NamespaceOutgoing)>) -> Self {
        let destinations = outgoing.flat_map(|(namespace, outgoing)| {
            let ways = outgoing.ways.iter();
            let most = ways.filter(|way| outgoing.part(way.held) >= Some(WORTH_ASKING));
            most.map(move |way| (namespace, way.remote))
        });
        Self(destinations.map(|to| (to, FxHashMap::default())).collect())
    }

    /// Takes note of a descriptor.
    pub fn add(&mut self, owner: &Owner) {
        if self.0.is_empty() {
            return;
        }
        if let Some((namespace, peer)) = owner.destined
            && let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port())
            && let Some(holders) = self.0.get_mut(&(namespace, peer))
        {
            *holders.entry(owner.process).or_default() += 1;
        }
    }

    /// Who they are.
    #[must_use]
    pub fn named(self, processes: &FxHashMap<ProcessId, Arc<Process>>) -> NamedPortHolders {
        let named = self.0.into_iter().map(|(destined, holders)| {
            let mut holders: Vec<_> = holders.into_iter().collect();
            holders.sort_unstable_by_key(|(id, count)| (Reverse(*count), *id));
            let holders = holders.iter();
            let named = holders.filter_map(|(id, _)| processes.get(id).cloned());
            (destined, named.collect())
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collect::{outgoing::Way, owners::CgroupIdentity},
        decode::Socket,
        host::process::{Descriptors, RunState},
    };

    #[test]
    fn of_destinations_that_take_most_ports_it_is_known_who_has_them() {
        let to = |port| SocketAddr::from(([10, 0, 0, 2], port));
        let way = |port, held| Way {
            local: [10, 0, 0, 1].into(),
            remote: to(port),
            held,
            time_wait: 0,
            reusable: 0,
        };
        let outgoing = NamespaceOutgoing {
            ports: Some(1_000),
            ways: vec![way(443, 900), way(80, 10)],
            ..NamespaceOutgoing::default()
        };
        let process = |tgid| ProcessId {
            tgid,
            start_boottime_ns: 1,
        };
        let mut holders = PortHolders::of([(7, &outgoing)].into_iter());
        for (tgid, namespace, port) in [
            (10, 7, 443),
            (11, 7, 443),
            (11, 7, 443),
            (12, 7, 80),
            (13, 8, 443),
        ] {
            holders.add(&Owner {
                destined: Some((namespace, to(port))),
                ..Owner::of(process(tgid), Socket::Other(1))
            });
        }
        let processes = (10..14).map(|tgid| {
            let process = Process {
                id: process(tgid),
                name: format!("p{tgid}"),
                cgroup: CgroupIdentity::default(),
                descriptors: Descriptors::default(),
                run_state: RunState::Runs,
            };
            (process.id, Arc::new(process))
        });
        let found = holders.named(&processes.collect());
        assert_eq!(found.len(), 1);
        let names: Vec<&str> = found[&(7, to(443))]
            .iter()
            .map(|process| process.name.as_str())
            .collect();
        assert_eq!(names, ["p11", "p10"]);
    }
}
