//! Who holds listening sockets, by the last walk over the descriptors of all processes: of several the
//! one that accepts, where that is known.

use std::{
    cmp::Reverse,
    collections::hash_map::Entry,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    collect::{
        listeners::ListeningSocket,
        owners::{Naming, OwnerLabels},
    },
    decode::{Owner, Socket},
    host::process::{Process, ProcessId},
    kernel::HeldProcesses,
};

/// Further owners of one socket that are remembered, and those of all sockets.
const MAX_CO_OWNERS: usize = 64;
const MAX_ALL_CO_OWNERS: usize = 16_384;
/// Processes and ports whose connections are counted.
const MAX_COUNTED: usize = 16_384;

/// Who holds what.
pub(in super::super) struct Owners {
    /// The sockets that there were before the walk, rising.
    by_socket: Vec<(Known, Holder)>,
    /// The labels of all holders, each once, in their order; nobody's come first.
    labels: Vec<Arc<OwnerLabels>>,
    /// Who else holds a socket.
    others: FxHashMap<u64, Vec<ProcessId>>,
    /// The holders.
    processes: HeldProcesses,
    pub(super) at: Option<Instant>,
}

/// A socket, and not another that has come to its place in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    socket: u64,
    namespace: u32,
    address: SocketAddr,
}

/// Who holds a socket.
#[derive(Clone, Copy)]
pub(super) struct Holder {
    process: Option<ProcessId>,
    /// The index of the labels.
    labels: u32,
}

impl Known {
    pub(super) const fn of(socket: &ListeningSocket) -> Self {
        Self {
            socket: socket.socket,
            namespace: socket.namespace,
            address: socket.address,
        }
    }
}

impl Holder {
    const NOBODY: Self = Self {
        process: None,
        labels: 0,
    };

    /// `None` where nobody does.
    pub(super) const fn process(self) -> Option<ProcessId> {
        self.process
    }

    /// Rises with the labels.
    pub(super) const fn order(self) -> u32 {
        self.labels
    }
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            by_socket: Vec::new(),
            labels: vec![Arc::default()],
            others: FxHashMap::default(),
            processes: HeldProcesses::default(),
            at: None,
        }
    }
}

impl Owners {
    /// Who holds each of `sockets`, which come by rising [`ListeningSocket::socket`]. `None`, as
    /// long as there are `walks`, for those that have come since the last one.
    pub(super) fn of<'a>(
        &'a self,
        sockets: &'a [ListeningSocket],
        walks: bool,
    ) -> impl Iterator<Item = Option<Holder>> + 'a {
        let mut known = self.by_socket.iter().peekable();
        sockets.iter().map(move |socket| {
            while known
                .next_if(|(known, _)| known.socket < socket.socket)
                .is_some()
            {}
            let known = known.next_if(|(known, _)| known.socket == socket.socket);
            match known.filter(|(known, _)| *known == Known::of(socket)) {
                Some((_, holder)) => Some(*holder),
                None if walks => None,
                None => Some(Holder::NOBODY),
            }
        })
    }

    /// The labels of who holds it.
    pub(super) fn labels(&self, holder: Holder) -> &Arc<OwnerLabels> {
        &self.labels[holder.labels as usize]
    }

    /// Who holds one of `sockets`, the same one.
    fn holder(&self, known: &Known) -> Option<ProcessId> {
        let place = self
            .by_socket
            .binary_search_by_key(&known.socket, |(known, _)| known.socket);
        let (found, holder) = self.by_socket.get(place.ok()?)?;
        (found == known).then_some(holder.process)?
    }

    /// Who else holds this socket, as far as remembered.
    pub(super) fn co_owners(&self, socket: u64) -> &[ProcessId] {
        self.others.get(&socket).map_or(&[], Vec::as_slice)
    }

    /// Who a holder is.
    pub(super) fn process(&self, id: ProcessId) -> Option<Arc<Process>> {
        self.processes.get(&id).cloned()
    }

    /// What a walk has found that has met these processes, after `before`.
    pub(super) fn new(
        mut walk: HolderWalk,
        all: &HeldProcesses,
        naming: &mut Naming,
        before: &Self,
        at: Instant,
    ) -> Self {
        walk.prefer_accepters(before);
        let ids: FxHashSet<ProcessId> = walk.by_socket.values().copied().collect();
        let processes: HeldProcesses = ids
            .into_iter()
            .filter_map(|id| Some((id, Arc::clone(all.get(&id)?))))
            .collect();
        let now = boottime();
        let by_process: FxHashMap<ProcessId, Arc<OwnerLabels>> = processes
            .iter()
            .map(|(id, process)| (*id, naming.of(process, now)))
            .collect();
        let mut labels: Vec<_> = by_process.values().map(Arc::clone).collect();
        labels.push(Arc::default());
        labels.sort_unstable();
        labels.dedup();
        let holders: FxHashMap<_, _> = by_process
            .iter()
            .map(|(&id, of)| {
                let order = labels.partition_point(|other| other < of);
                let holder = Holder {
                    process: Some(id),
                    labels: u32::try_from(order).unwrap_or(0),
                };
                (id, holder)
            })
            .collect();
        let by_socket = walk.before.into_iter().map(|known| {
            let process = walk.by_socket.get(&known.socket);
            let holder = process.and_then(|id| holders.get(id));
            (known, holder.copied().unwrap_or(Holder::NOBODY))
        });
        Self {
            by_socket: by_socket.collect(),
            labels,
            others: walk.co_owners,
            processes,
            at: Some(at),
        }
    }
}

/// As the start of processes is told.
pub(in super::super) fn boottime() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// A walk over all descriptors, as far as it is about listening sockets.
pub(in super::super) struct HolderWalk {
    before: Vec<Known>,
    by_socket: FxHashMap<u64, ProcessId>,
    co_owners: FxHashMap<u64, Vec<ProcessId>>,
    /// How many of them there are.
    all_co_owners: usize,
    connections: Connections,
}

/// How many connections each process has on each local port: who has some accepts.
#[derive(Default)]
struct Connections {
    counts: FxHashMap<Accepter, u64>,
    /// Descriptors beside each other mostly are of one port. Their count is not in the map yet.
    last: Option<(Accepter, u64)>,
}

/// Inode number of a network namespace, local port, and a process.
type Accepter = (u32, u16, ProcessId);

impl Connections {
    fn add(&mut self, accepter: Accepter) {
        match &mut self.last {
            Some((last, count)) if *last == accepter => *count += 1,
            _ => {
                self.note();
                self.last = Some((accepter, 1));
            }
        }
    }

    fn note(&mut self) {
        let Some((accepter, more)) = self.last.take() else {
            return;
        };
        if self.counts.len() < MAX_COUNTED || self.counts.contains_key(&accepter) {
            *self.counts.entry(accepter).or_default() += more;
        }
    }

    fn of(&self, accepter: &Accepter) -> u64 {
        self.counts.get(accepter).copied().unwrap_or(0)
    }
}

impl HolderWalk {
    /// Before it. `sockets` are those that listen, by rising [`ListeningSocket::socket`].
    pub(in super::super) fn new(sockets: &[ListeningSocket]) -> Self {
        Self {
            before: sockets.iter().map(Known::of).collect(),
            by_socket: FxHashMap::default(),
            co_owners: FxHashMap::default(),
            all_co_owners: 0,
            connections: Connections::default(),
        }
    }

    /// Adds a descriptor. They come in the order of their processes, so that of several owners
    /// the one with the lowest number counts.
    pub(in super::super) fn add(&mut self, owner: &Owner) {
        let accepted = match &owner.socket {
            Socket::CloseWait(socket) => Some((socket.namespace, socket.local_port)),
            _ => owner.established,
        };
        if let Some((namespace, port)) = accepted {
            self.connections.add((namespace, port, owner.process));
        }
        let Socket::Listener(listener) = &owner.socket else {
            return;
        };
        match self.by_socket.entry(listener.socket) {
            Entry::Vacant(place) => {
                place.insert(owner.process);
            }
            // One process may hold it by several descriptors.
            Entry::Occupied(first) if *first.get() == owner.process => {}
            Entry::Occupied(_) if self.all_co_owners == MAX_ALL_CO_OWNERS => {}
            Entry::Occupied(_) => {
                let others = self.co_owners.entry(listener.socket).or_default();
                if others.last() != Some(&owner.process) && others.len() < MAX_CO_OWNERS {
                    others.push(owner.process);
                    self.all_co_owners += 1;
                }
            }
        }
    }

    /// Of those that share a socket, the one with most connections counts: it accepts. Where none has
    /// any, or connections were not walked over, it is the one that it was, as long as that holds the
    /// socket, so that no series comes and goes.
    fn prefer_accepters(&mut self, before: &Owners) {
        let Self {
            before: sockets,
            by_socket,
            co_owners,
            connections,
            ..
        } = self;
        connections.note();
        for known in sockets.iter() {
            let Some(first) = by_socket.get_mut(&known.socket) else {
                continue;
            };
            let Some(others) = co_owners.get_mut(&known.socket) else {
                continue;
            };
            let count =
                |id: ProcessId| connections.of(&(known.namespace, known.address.port(), id));
            let holders = std::iter::once(*first).chain(others.iter().copied());
            let most = holders.max_by_key(|&id| (count(id), Reverse(id)));
            let accepter = most
                .filter(|most| count(*most) > 0)
                .or_else(|| before.holder(known));
            let Some(place) = others.iter().position(|other| Some(*other) == accepter) else {
                continue;
            };
            std::mem::swap(first, &mut others[place]);
            others.sort_unstable();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collect::owners::CgroupIdentity,
        decode::Listener,
        host::process::{Descriptors, RunState},
    };

    const NAMESPACE: u32 = 1;
    const PORT: u16 = 80;
    const SOCKET: u64 = 7;

    const fn process(tgid: u32) -> ProcessId {
        ProcessId {
            tgid,
            start_boottime_ns: 1,
        }
    }

    fn listens(tgid: u32) -> Owner {
        let listener = Listener {
            socket: SOCKET,
            namespace: NAMESPACE,
            port: PORT,
        };
        Owner {
            is_shared: true,
            ..Owner::of(process(tgid), Socket::Listener(listener))
        }
    }

    fn has_accepted(tgid: u32) -> Owner {
        Owner {
            established: Some((NAMESPACE, PORT)),
            ..Owner::of(process(tgid), Socket::Other(9))
        }
    }

    /// What is known of the socket after a walk that has met these.
    fn walked(owners: &[Owner], before: &Owners) -> Owners {
        let mut walk = HolderWalk::new(&[]);
        walk.before.push(KNOWN);
        for owner in owners {
            walk.add(owner);
        }
        let processes = owners.iter().map(|owner| {
            let process = Process {
                id: owner.process,
                name: "server".to_owned(),
                cgroup: CgroupIdentity::default(),
                descriptors: Descriptors::default(),
                run_state: RunState::Runs,
            };
            (owner.process, Arc::new(process))
        });
        Owners::new(
            walk,
            &processes.collect(),
            &mut Naming::default(),
            before,
            Instant::now(),
        )
    }

    const KNOWN: Known = Known {
        socket: SOCKET,
        namespace: NAMESPACE,
        address: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), PORT),
    };

    #[test]
    fn a_shared_socket_is_that_of_the_first_and_the_others_are_remembered_once() {
        // Each holds it by two descriptors.
        let all: Vec<_> = (1..=100)
            .flat_map(|tgid| [listens(tgid), listens(tgid)])
            .collect();
        let owners = walked(&all, &Owners::default());
        let expected: Vec<_> = (2..).take(MAX_CO_OWNERS).map(process).collect();
        assert_eq!(owners.holder(&KNOWN), Some(process(1)));
        assert_eq!(owners.co_owners(SOCKET), expected);
        assert!(owners.co_owners(8).is_empty());
    }

    #[test]
    fn a_shared_socket_is_that_of_the_one_that_accepts_and_stays_so() {
        let master_and_workers = [listens(1), listens(2), listens(3)];
        let mut owners = Owners::default();
        for (connections, expected) in [
            // Nobody is known to accept.
            (&[][..], 1),
            (&[has_accepted(3)], 3),
            (&[has_accepted(2), has_accepted(3), has_accepted(3)], 3),
            // Not walked over, or none is left.
            (&[], 3),
            (&[has_accepted(2)], 2),
            // It does not hold the listening socket.
            (&[has_accepted(4)], 2),
        ] {
            let all = [&master_and_workers[..], connections].concat();
            owners = walked(&all, &owners);
            assert_eq!(owners.holder(&KNOWN), Some(process(expected)));
            let others = [1, 2, 3].map(process);
            let others = others.into_iter().filter(|id| id.tgid != expected);
            assert_eq!(owners.co_owners(SOCKET), others.collect::<Vec<_>>());
        }
        // Another one at the same place in memory.
        let mut other = Owners::default();
        other.by_socket.push((
            Known {
                namespace: 2,
                ..KNOWN
            },
            Holder::NOBODY,
        ));
        assert_eq!(other.holder(&KNOWN), None);
    }
}
