//! Which processes hold sockets in CLOSE_WAIT.

use std::collections::BTreeSet;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Cause, Group, MptcpTally, Service, Survey, Tally};
use crate::{
    decode::{CloseWaitSocket, Listener, Owner, Socket},
    diagnosis::words::count,
    host::process::ProcessId,
};

/// Groups that are told apart; beyond it a process's sockets are one group of port 0, and then
/// they count as having no owner.
const MAX_GROUPS: usize = 8192;
/// Shared sockets that are remembered, so that none counts twice. Beyond it the survey's count
/// puts right what counts twice, but not by whom.
const MAX_SHARED: usize = 65_536;
/// Further owners of one group that are named.
const MAX_CO_OWNERS: usize = 64;
/// Connections that processes have made whose descriptors are remembered, of all together.
const MAX_MADE: usize = 65_536;
/// Sockets of a group whose descriptors are.
const SAMPLED: usize = 64;

/// What a walk over all descriptors has found.
#[derive(Debug, Default)]
pub struct Holdings {
    groups: FxHashMap<(ProcessId, Service, Cause), Holding>,
    queues: FxHashMap<(ProcessId, Service), Queue>,
    mptcp: FxHashMap<(ProcessId, Service), MptcpTally>,
    shared: FxHashMap<u64, ProcessId>,
    /// Who listens, by namespace and port.
    listening: FxHashMap<(u32, u16), BTreeSet<ProcessId>>,
    /// The descriptors that each has of established connections that it has made itself.
    made: FxHashMap<ProcessId, FxHashSet<u32>>,
    /// How many there are of them.
    all_made: usize,
    /// How many connections each has, of those that came to a port on which some wait to be accepted.
    accepted: FxHashMap<(u32, u16, ProcessId), u64>,
}

/// A group of sockets that one process holds, and perhaps others with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) tally: Tally,
    /// Of the oldest.
    descriptor: Option<u32>,
    /// Of some.
    descriptors: Vec<u32>,
    pub(super) co_owners: BTreeSet<ProcessId>,
}

impl Holding {
    /// As a group of its own.
    pub(super) fn into_group(self, process: ProcessId, service: Service, cause: Cause) -> Group {
        Group {
            owner: Some(process),
            co_owners: self.co_owners,
            service,
            cause,
            oldest_descriptor: self.descriptor,
            made_in: None,
            tally: self.tally,
            living: 0,
            is_one_of: false,
        }
    }
}

/// The accept queues of one process for one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// Sockets in CLOSE_WAIT that were found in them.
    pub(super) unaccepted: u64,
    /// Others that wait with them.
    pub(super) living: u64,
    /// There may be more.
    pub(super) is_cut: bool,
    pub(super) co_owners: BTreeSet<ProcessId>,
}

impl Holdings {
    /// Adds a descriptor. They must come in the order of their processes, so that of several
    /// owners the one with the lowest number counts.
    pub fn add(&mut self, owner: &Owner, survey: &Survey) {
        let accepted = match &owner.socket {
            Socket::CloseWait(socket) => Some((socket.namespace, socket.local_port)),
            _ => owner.established,
        };
        if let Some((namespace, port)) = accepted
            && survey.is_waited_for(namespace, port)
            && self.accepted.len() < MAX_GROUPS
        {
            let key = (namespace, port, owner.process);
            *self.accepted.entry(key).or_default() += 1;
        }
        if let (Some((namespace, port)), Some(descriptor)) = (owner.established, owner.descriptor)
            && !survey.listens(namespace, port)
            && self.all_made < MAX_MADE
        {
            self.all_made += 1;
            let made = self.made.entry(owner.process).or_default();
            made.insert(descriptor);
        }
        match &owner.socket {
            Socket::CloseWait(socket) => {
                if let Some(service) = survey.service(socket) {
                    self.add_socket(owner, socket, service, survey);
                }
            }
            Socket::Listener(listener) => {
                self.add_listener(owner, listener);
                if (owner.unaccepted > 0 || owner.is_cut)
                    && let Some(service) = survey.listened_on(listener)
                {
                    self.add_queue(owner, listener, service);
                }
            }
            Socket::Mptcp(socket) => {
                let (service, age) = survey.mptcp(socket);
                let key = (owner.process, service);
                if self.first_owner(owner, socket.socket).is_none()
                    && (self.mptcp.len() < MAX_GROUPS || self.mptcp.contains_key(&key))
                {
                    self.mptcp.entry(key).or_default().add(age);
                }
            }
            Socket::Other(_) => {}
        }
    }

    /// MPTCP connections that their peers have closed, by who has them.
    #[must_use]
    pub const fn mptcp(&self) -> &FxHashMap<(ProcessId, Service), MptcpTally> {
        &self.mptcp
    }

    pub(super) const fn groups(&self) -> &FxHashMap<(ProcessId, Service, Cause), Holding> {
        &self.groups
    }

    pub(super) const fn queues(&self) -> &FxHashMap<(ProcessId, Service), Queue> {
        &self.queues
    }

    /// Who has a listening socket on a port of a namespace, as far as remembered.
    #[must_use]
    pub fn listeners(&self, service: Service) -> Option<&BTreeSet<ProcessId>> {
        self.listening.get(&(service.namespace, service.port))
    }

    /// How many connections a process has of a service on which others wait to be accepted.
    pub(super) fn accepted(&self, process: ProcessId, service: Service) -> u64 {
        let key = (service.namespace, service.port, process);
        self.accepted.get(&key).copied().unwrap_or(0)
    }

    /// How many of a group's sockets have another side in the same process: a proxy accepts a
    /// connection and makes another, and gets descriptors for them that are neighbours.
    #[must_use]
    pub fn other_sides(&self, process: ProcessId, service: Service, cause: Cause) -> u64 {
        let group = self.groups.get(&(process, service, cause));
        let Some((group, made)) = group.zip(self.made.get(&process)) else {
            return 0;
        };
        let has_neighbour = |descriptor: &&u32| {
            made.contains(&descriptor.wrapping_add(1)) || made.contains(&descriptor.wrapping_sub(1))
        };
        let (sample, paired) = (
            count(group.descriptors.len()),
            count(group.descriptors.iter().filter(has_neighbour).count()),
        );
        paired * group.tally.sockets / sample.max(1)
    }

    fn add_listener(&mut self, owner: &Owner, listener: &Listener) {
        let key = (listener.namespace, listener.port);
        if self.listening.len() < MAX_GROUPS || self.listening.contains_key(&key) {
            let holders = self.listening.entry(key).or_default();
            if holders.len() < MAX_CO_OWNERS {
                holders.insert(owner.process);
            }
        }
    }

    fn add_socket(
        &mut self,
        owner: &Owner,
        socket: &CloseWaitSocket,
        service: Service,
        survey: &Survey,
    ) {
        let cause = Cause::of(socket);
        if let Some(first) = self.first_owner(owner, socket.socket) {
            let group = self.groups.get_mut(&(first, service, cause));
            if let Some(group) = group.filter(|group| group.co_owners.len() < MAX_CO_OWNERS)
                && first != owner.process
            {
                group.co_owners.insert(owner.process);
            }
            return;
        }
        let mut key = (owner.process, service, cause);
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key) {
            key.1.port = 0;
            if !self.groups.contains_key(&key) && self.groups.len() >= 2 * MAX_GROUPS {
                return;
            }
        }
        let times = survey.times(socket);
        let holding = self.groups.entry(key).or_default();
        if let Some(descriptor) = owner.descriptor
            && holding.descriptors.len() < SAMPLED
        {
            holding.descriptors.push(descriptor);
        }
        if Some(times.age) > holding.tally.oldest {
            holding.descriptor = owner.descriptor;
        }
        holding.tally.add(socket, &times);
    }

    fn add_queue(&mut self, owner: &Owner, listener: &Listener, service: Service) {
        if let Some(first) = self.first_owner(owner, listener.socket) {
            let queue = self.queues.get_mut(&(first, service));
            if let Some(queue) = queue.filter(|queue| queue.co_owners.len() < MAX_CO_OWNERS)
                && first != owner.process
            {
                queue.co_owners.insert(owner.process);
            }
            return;
        }
        if self.queues.len() < MAX_GROUPS {
            let queue = self.queues.entry((owner.process, service)).or_default();
            queue.unaccepted += u64::from(owner.unaccepted);
            queue.living += u64::from(owner.living);
            queue.is_cut |= owner.is_cut;
        }
    }

    /// Who was seen with this socket before; remembers this one where nobody was.
    fn first_owner(&mut self, owner: &Owner, socket: u64) -> Option<ProcessId> {
        if !owner.is_shared {
            return None;
        }
        if let Some(&first) = self.shared.get(&socket) {
            return Some(first);
        }
        if self.shared.len() < MAX_SHARED {
            self.shared.insert(socket, owner.process);
        }
        None
    }
}
