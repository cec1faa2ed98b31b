//! Who holds listening sockets: found by a walk over the descriptors of all processes, when new
//! ones have come and now and then.

use std::{
    collections::hash_map::Entry,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tcpstate_common::{ListenAddress, TcpState};
use tracing::warn;

use super::{
    super::shared::{Shared, lock},
    Listening,
};
use crate::{
    decode::{ListeningSocket, Owner, Socket},
    model::close_wait::OwnerLabels,
    process::ProcessId,
};

/// How often to look who holds them at most where none is new: a descriptor can be handed over.
const OWNERS_EVERY: Duration = Duration::from_mins(1);
/// And where some are.
const OWNERS_PAUSE: Duration = Duration::from_secs(1);

/// Further owners of one socket that are remembered, and those of all sockets.
const MAX_CO_OWNERS: usize = 64;
const MAX_ALL_CO_OWNERS: usize = 16_384;

/// Who holds what, by the last walk.
pub(super) struct Owners {
    /// The sockets that there were before the walk, rising.
    by_socket: Vec<(Known, Holder)>,
    /// The labels of all holders, each once, in their order; nobody's come first.
    labels: Vec<Arc<OwnerLabels>>,
    /// Who else holds a socket.
    others: FxHashMap<u64, Vec<ProcessId>>,
    at: Option<Instant>,
    /// How many sockets had begun to listen before it.
    begun: u64,
}

/// A socket, and not another that has come to its place in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    socket: u64,
    begun_ns: Option<NonZeroU64>,
    /// Where the beginning was not seen, this tells them apart.
    address: ListenAddress,
}

/// Who holds a socket.
#[derive(Clone, Copy)]
pub(super) struct Holder {
    process: Option<ProcessId>,
    /// The index of the labels.
    labels: u32,
}

impl Known {
    pub(super) fn of(socket: &ListeningSocket) -> Self {
        Self {
            socket: socket.socket,
            begun_ns: socket.begun_ns,
            address: socket.listen_address(),
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
            at: None,
            begun: 0,
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

    fn new(walk: OwnerWalk, by_process: &FxHashMap<ProcessId, Arc<OwnerLabels>>) -> Self {
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
            at: Some(walk.at),
            begun: walk.begun,
        }
    }
}

/// A walk over all descriptors, as far as it is about listening sockets.
pub(in super::super) struct OwnerWalk {
    before: Vec<Known>,
    ports: FxHashMap<(u32, u16), u64>,
    by_socket: FxHashMap<u64, ProcessId>,
    co_owners: FxHashMap<u64, Vec<ProcessId>>,
    /// How many of them there are.
    all_co_owners: usize,
    begun: u64,
    at: Instant,
}

impl OwnerWalk {
    /// How many sockets listened before it, by network namespace and port.
    pub(in super::super) fn ports(&mut self) -> FxHashMap<(u32, u16), u64> {
        std::mem::take(&mut self.ports)
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

/// Whether it is time for a walk, the last of which was `age` ago. `is_new`: sockets have begun to
/// listen since; where not, one is made `every` so often, or less. `oldest` is the age of the oldest snapshot that is due: a host on which something
/// begins to listen all the time does not spend its budget on these walks alone.
fn is_due(age: Duration, is_new: bool, every: Duration, oldest: Option<Duration>) -> bool {
    let pause = if is_new {
        OWNERS_PAUSE
    } else {
        OWNERS_EVERY.max(every)
    };
    age >= pause && oldest.is_none_or(|oldest| oldest <= age)
}

impl Shared {
    /// Whether to find out now who holds listening sockets. Where none is new that is done `every`
    /// so often, or less; `oldest` is the age of the oldest snapshot that is due.
    pub(in super::super) fn listener_owners_are_due(
        &self,
        every: Duration,
        oldest: Option<Duration>,
    ) -> bool {
        let Some(listening) = self.listening.as_ref().filter(|_| self.tells_owners) else {
            return false;
        };
        let owners = listening.owners();
        // Until the first time there is nothing to show.
        owners.at.is_none_or(|at| {
            let is_new = owners.begun != self.begun_to_listen();
            is_due(at.elapsed(), is_new, every, oldest)
        })
    }

    /// Finds out who holds them.
    pub(in super::super) fn find_listener_owners(&self) {
        let Some(socket_pass) = &self.socket_pass else {
            return;
        };
        let Some(mut walk) = self.begin_owner_walk() else {
            return;
        };
        let walked = lock(socket_pass).owners(|owner| walk.add(&owner));
        match walked {
            Ok(()) => self.end_owner_walk(walk),
            Err(error) => warn!(%error, "cannot tell who holds the listening sockets"),
        }
    }

    /// Before a walk over all descriptors.
    pub(in super::super) fn begin_owner_walk(&self) -> Option<OwnerWalk> {
        let begun = self.begun_to_listen();
        let at = Instant::now();
        let sockets = self.listening.as_ref()?.read()?;
        let mut ports = FxHashMap::default();
        for socket in &sockets {
            *ports
                .entry((socket.namespace, socket.address.port()))
                .or_default() += 1;
        }
        Some(OwnerWalk {
            before: sockets.iter().map(Known::of).collect(),
            ports,
            by_socket: FxHashMap::default(),
            co_owners: FxHashMap::default(),
            all_co_owners: 0,
            begun,
            at,
        })
    }

    /// After it.
    pub(in super::super) fn end_owner_walk(&self, walk: OwnerWalk) {
        let Some(listening) = &self.listening else {
            return;
        };
        let by_process = listening.labels_of(&walk);
        let owners = Owners::new(walk, &by_process);
        {
            let mut known = lock(&listening.owners);
            // Two threads make such walks, and the one that began later knows more.
            if known.at < owners.at {
                *known = Arc::new(owners);
            }
        }
        listening.forget_gone();
    }

    /// Sockets that have begun to listen since the start.
    pub(super) fn begun_to_listen(&self) -> u64 {
        self.flow()
            .and_then(|flow| flow.transitions().ok())
            .map_or(0, |matrix| {
                let from_any = TcpState::ALL.into_iter();
                from_any.map(|from| matrix.of(from, TcpState::Listen)).sum()
            })
    }
}

impl Listening {
    /// The labels of each process that was met. What a process held that has ended meanwhile,
    /// another may hold, or nobody.
    fn labels_of(&self, walk: &OwnerWalk) -> FxHashMap<ProcessId, Arc<OwnerLabels>> {
        let now = Instant::now();
        let ids: FxHashSet<ProcessId> = walk.by_socket.values().copied().collect();
        let mut processes = lock(&self.processes);
        let mut labels = FxHashMap::default();
        for &id in &ids {
            if let Some(process) = processes.get(id, now) {
                labels.insert(id, Arc::new(OwnerLabels::of(&process)));
            }
        }
        processes.keep_only(|id| ids.contains(id));
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Listener;

    #[test]
    fn a_shared_socket_is_that_of_the_first_and_the_others_are_remembered_once() {
        let mut walk = OwnerWalk {
            before: Vec::new(),
            ports: FxHashMap::default(),
            by_socket: FxHashMap::default(),
            co_owners: FxHashMap::default(),
            all_co_owners: 0,
            begun: 0,
            at: Instant::now(),
        };
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
                descriptor: None,
                is_cut: false,
            });
        }
        let owners = Owners::new(walk, &FxHashMap::default());
        let expected: Vec<_> = (2..).take(MAX_CO_OWNERS).map(process).collect();
        assert_eq!(owners.co_owners(7), expected);
        assert!(owners.co_owners(8).is_empty());
    }

    #[test]
    fn walks_are_made_for_new_sockets_and_now_and_then_and_never_instead_of_snapshots() {
        let seconds = Duration::from_secs;
        for (age, is_new, every, oldest, expected) in [
            (0, true, 0, None, false),
            (1, true, 0, None, true),
            (1, false, 0, None, false),
            (59, false, 0, None, false),
            (60, false, 0, None, true),
            // Where one is dear, they are seldom, unless there is something new.
            (60, false, 300, None, false),
            (300, false, 300, None, true),
            (1, true, 300, None, true),
            // Snapshots come first.
            (1, true, 0, Some(1), true),
            (1, true, 0, Some(2), false),
            (60, false, 0, Some(61), false),
        ] {
            let is_due = is_due(seconds(age), is_new, seconds(every), oldest.map(seconds));
            assert_eq!(is_due, expected, "{age} {is_new} {every} {oldest:?}");
        }
    }
}
