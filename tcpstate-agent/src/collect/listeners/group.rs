//! From listening sockets to what listens.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use rustc_hash::FxHashMap;
use tcpstate_common::{ListenAddress, ServiceCounts};

use super::{ListeningSocket, QueueSums, SynQueueLimits};
use crate::host::process::ProcessId;

/// What tells one listener from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Who holds it; of several one that accepts, as far as known. `None` where nobody does.
    pub owner: Option<ProcessId>,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// Address and port.
    pub address: SocketAddr,
}

impl Place {
    /// That of a socket.
    #[must_use]
    pub const fn of(socket: &ListeningSocket, owner: Option<ProcessId>) -> Self {
        Self {
            owner,
            namespace: socket.namespace,
            address: socket.address,
        }
    }
}

/// All sockets of one process that listen in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Which one.
    pub place: Place,
    /// How many there are: more than one with `SO_REUSEPORT`.
    pub sockets: u64,
    /// Their queues.
    pub queues: QueueSums,
    /// The connections of its address, as the last pass has found them.
    pub connections: Option<Arc<ServiceCounts>>,
    /// Where several processes listen there: whether it is the first of them, which the
    /// connections are shown with.
    pub is_first: bool,
    /// What the sockets have dropped since they listen.
    pub drops: u64,
    /// SYN-ACKs that were sent again since they are known.
    pub synack_retransmits: u64,
}

/// What the last pass over a network namespace has found.
#[derive(Debug, Default)]
pub struct Served {
    /// Its connections by what they came to, where there are some.
    pub services: FxHashMap<ListenAddress, Arc<ServiceCounts>>,
    /// Its settings, where they can be read.
    pub limits: Option<SynQueueLimits>,
}

/// Groups sockets, each with its owner. `served` has the namespaces that were passed over, by
/// inode number.
#[must_use]
pub fn group(
    sockets: impl IntoIterator<Item = (ListeningSocket, Option<ProcessId>)>,
    served: &BTreeMap<u32, Served>,
) -> Vec<Listener> {
    let nothing = Served::default();
    let mut listeners = BTreeMap::<Place, Listener>::new();
    let mut addresses = BTreeMap::new();
    for (socket, owner) in sockets {
        let place = Place::of(&socket, owner);
        let listener = listeners.entry(place).or_insert_with(|| Listener {
            place,
            sockets: 0,
            queues: QueueSums::default(),
            connections: None,
            is_first: false,
            drops: 0,
            synack_retransmits: 0,
        });
        let served = served.get(&socket.namespace).unwrap_or(&nothing);
        listener.sockets += 1;
        listener.queues.add(&socket, served);
        listener.drops += u64::from(socket.drops);
        listener.synack_retransmits += socket.synack_retransmits;
        let address = socket.listen_address();
        if listener.connections.is_none() {
            listener.connections = served.services.get(&address).cloned();
        }
        let first = addresses.entry(address).or_insert(place);
        *first = place.min(*first);
    }
    for place in addresses.into_values() {
        if let Some(listener) = listeners.get_mut(&place) {
            listener.is_first = true;
        }
    }
    listeners.into_values().collect()
}

#[cfg(test)]
pub(super) mod tests {
    use tcpstate_common::{Family, TcpState};

    use super::*;

    pub(crate) fn socket(queue: u32, limit: u32, half_open: u32) -> ListeningSocket {
        ListeningSocket {
            socket: 1,
            namespace: 1,
            family: Family::Ipv4,
            address: "0.0.0.0:80".parse().unwrap(),
            is_any_port: false,
            accept_queue: queue,
            accept_limit: limit,
            half_open,
            drops: 0,
            synack_retransmits: 0,
        }
    }

    const fn process(tgid: u32) -> ProcessId {
        ProcessId {
            tgid,
            start_boottime_ns: 1,
        }
    }

    /// Nine connections.
    pub(crate) fn served() -> BTreeMap<u32, Served> {
        let mut found = ServiceCounts::default();
        found.by_state[TcpState::Established as usize] = 9;
        let address = socket(0, 0, 0).listen_address();
        let served = Served {
            services: FxHashMap::from_iter([(address, Arc::new(found))]),
            limits: None,
        };
        BTreeMap::from([(1, served)])
    }

    fn established(listener: &Listener) -> u32 {
        let found = listener.connections.as_ref().filter(|_| listener.is_first);
        found.map_or(0, |found| found.by_state[TcpState::Established as usize])
    }

    #[test]
    fn sockets_of_one_process_at_one_place_are_one_listener() {
        let sockets = [
            (socket(0, 128, 1), Some(process(5))),
            (socket(65, 128, 2), Some(process(5))),
            (socket(70, 4096, 3), Some(process(5))),
        ];
        let listeners = group(sockets, &served());
        let [listener] = &listeners[..] else {
            panic!("{listeners:?}");
        };
        assert_eq!((listener.sockets, listener.queues.accept_queue), (3, 135));
        assert_eq!(listener.queues.half_open.total(), 6);
        assert_eq!(established(listener), 9);
    }

    #[test]
    fn connections_of_an_address_that_several_processes_share_count_once() {
        let sockets = [7, 6, 8].map(|tgid| (socket(0, 128, 0), Some(process(tgid))));
        let listeners = group(sockets, &served());
        let found: Vec<_> = listeners
            .iter()
            .map(|listener| (listener.place.owner, established(listener)))
            .collect();
        let expected = [(6, 9), (7, 0), (8, 0)].map(|(tgid, count)| (Some(process(tgid)), count));
        assert_eq!(found, expected);
    }
}
