//! Who holds listening sockets, by the last walk over the descriptors of all processes.

use std::{
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

    /// Who else holds this socket, as far as remembered.
    pub(super) fn co_owners(&self, socket: u64) -> &[ProcessId] {
        self.others.get(&socket).map_or(&[], Vec::as_slice)
    }

    /// Who a holder is.
    pub(super) fn process(&self, id: ProcessId) -> Option<Arc<Process>> {
        self.processes.get(&id).cloned()
    }

    /// What a walk has found that has met these processes.
    pub(super) fn new(
        walk: HolderWalk,
        all: &HeldProcesses,
        naming: &mut Naming,
        at: Instant,
    ) -> Self {
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
}

impl HolderWalk {
    /// Before it. `sockets` are those that listen, by rising [`ListeningSocket::socket`].
    pub(in super::super) fn new(sockets: &[ListeningSocket]) -> Self {
        Self {
            before: sockets.iter().map(Known::of).collect(),
            by_socket: FxHashMap::default(),
            co_owners: FxHashMap::default(),
            all_co_owners: 0,
        }
    }

    /// Adds a descriptor. They come in the order of their processes, so that of several owners
    /// the one with the lowest number counts.
    pub(in super::super) fn add(&mut self, owner: &Owner) {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Listener;

    #[test]
    fn a_shared_socket_is_that_of_the_first_and_the_others_are_remembered_once() {
        let mut walk = HolderWalk::new(&[]);
        let process = |tgid| ProcessId {
            tgid,
            start_boottime_ns: 1,
        };
        // Each holds it by two descriptors.
        for tgid in (1..=100).flat_map(|tgid| [tgid, tgid]) {
            walk.add(&Owner {
                process: process(tgid),
                socket: Socket::Listener(Listener {
                    socket: 7,
                    namespace: 1,
                    port: 80,
                }),
                is_shared: true,
                unaccepted: 0,
                living: 0,
                established: None,
                descriptor: None,
                is_cut: false,
            });
        }
        let owners = Owners::new(
            walk,
            &HeldProcesses::default(),
            &mut Naming::default(),
            Instant::now(),
        );
        let expected: Vec<_> = (2..).take(MAX_CO_OWNERS).map(process).collect();
        assert_eq!(owners.co_owners(7), expected);
        assert!(owners.co_owners(8).is_empty());
    }
}
