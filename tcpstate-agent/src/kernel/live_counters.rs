//! The counters of each network namespace, and which element of the kernel side's array has those
//! of which.
//!
//! A namespace that nobody here knows yet counts in a small map of its own, from its first
//! transition on. When it gets its element, what was counted there is taken along, so that nothing is
//! missing.
//!
//! The kernel side knows a namespace by the place of its `struct net`. When a namespace goes and
//! another comes to lie in its place, it goes on counting, and what it counts is of the other: so
//! the counters are never set back while they are in use, and [`add`](LiveCounters::add) takes note
//! of where they were.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

use aya::{
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use tcpstate_common::NamespaceCounters;
use thiserror::Error;

use super::{flow::sum, wire::Wire};
use crate::collect::sockets::NamespaceId;

/// How long after a namespace got its element nothing adds to what it counted before any more. A
/// transition that was just being counted takes less by orders of magnitude.
const SETTLED: Duration = Duration::from_secs(1);

/// Why a namespace has no live counters.
#[derive(Debug, Error)]
pub enum AddError {
    /// As many namespaces as fit have them.
    #[error("no room for the live counters of more than {0} network namespaces")]
    Full(u32),
    /// The maps could not be written.
    #[error("cannot write live counters: {0}")]
    Map(#[from] MapError),
}

/// Those of all namespaces that have some.
pub(super) struct LiveCounters {
    elements: PerCpuArray<MapData, Wire<NamespaceCounters>>,
    /// Elements of namespaces whose own was taken.
    elsewhere: HashMap<MapData, u64, u32>,
    /// Counters of namespaces that have no element yet, or had none until a moment ago.
    young: PerCpuHashMap<MapData, u64, Wire<NamespaceCounters>>,
    /// Places with such counters where the last time no namespace was known.
    orphaned: BTreeSet<u64>,
    /// Places whose counters were dropped the last time, because that was so twice.
    dropped: BTreeSet<u64>,
    /// What the addresses of namespaces are measured from there.
    origin: u64,
    slots: Slots,
}

impl LiveCounters {
    pub(super) fn new(
        elements: PerCpuArray<MapData, Wire<NamespaceCounters>>,
        elsewhere: HashMap<MapData, u64, u32>,
        young: PerCpuHashMap<MapData, u64, Wire<NamespaceCounters>>,
        origin: u64,
    ) -> Self {
        Self {
            slots: Slots::new(elements.len()),
            elements,
            elsewhere,
            young,
            orphaned: BTreeSet::new(),
            dropped: BTreeSet::new(),
            origin,
        }
    }

    /// The counters of the namespace whose `struct net` is at this address; zeros where it has none.
    pub(super) fn of(&self, net: u64) -> Result<NamespaceCounters, MapError> {
        let Some(slot) = self.slots.taken.get(&net) else {
            return Ok(NamespaceCounters::ZERO);
        };
        let counters = self.read(slot.index)?.since(&slot.start);
        if slot.added_at.is_none() {
            return Ok(counters);
        }
        let mut all = self.young(self.key(net))?;
        all.add(&counters);
        Ok(all)
    }

    /// Gives the namespace at this address counters. They hold what it has counted before, if there
    /// was room for that. Does nothing where it has them. One that has come to the place of another
    /// begins with nothing.
    pub(super) fn add(&mut self, net: u64, id: NamespaceId) -> Result<(), AddError> {
        if let Some(&Slot { index, id: had, .. }) = self.slots.taken.get(&net) {
            if had != id {
                self.settle(net)?;
                let start = self.read(index)?;
                let slot = Slot {
                    index,
                    id,
                    start,
                    added_at: None,
                };
                self.slots.taken.insert(net, slot);
            }
            return Ok(());
        }
        let key = self.key(net);
        let home = NamespaceCounters::home(key, self.elements.len());
        let index = self
            .slots
            .take(net, id, home, Instant::now())
            .ok_or_else(|| AddError::Full(self.elements.len()))?;
        let mut added = self.write(index, key);
        if index != home {
            added = added.and_then(|()| self.elsewhere.insert(key, index, 0));
        }
        if added.is_err() {
            self.slots.give_back(net);
        }
        Ok(added?)
    }

    /// Whether counters of a namespace at this address, which got its element since the last
    /// [`tidy`](Self::tidy), may have been dropped.
    pub(super) fn was_dropped(&self, net: u64) -> bool {
        self.dropped.contains(&net)
    }

    /// To be done after each reading of the kernel's list, when every namespace in it was
    /// [added](Self::add): makes room for others that nobody knows yet.
    pub(super) fn tidy(&mut self, now: Instant) -> Result<(), MapError> {
        let settled: Vec<u64> = self
            .slots
            .taken
            .iter()
            .filter(|(_, slot)| {
                slot.added_at
                    .is_some_and(|at| now.saturating_duration_since(at) >= SETTLED)
            })
            .map(|(net, _)| *net)
            .collect();
        for net in settled {
            self.settle(net)?;
        }
        let keys: Vec<u64> = self.young.keys().collect::<Result<_, _>>()?;
        let homeless: BTreeSet<u64> = keys
            .into_iter()
            .map(|key| key.wrapping_add(self.origin))
            .filter(|net| !self.slots.taken.contains_key(net))
            .collect();
        // One that began after the list was read is in the next; what is not in there either is of
        // one that is gone, or for which there is no room.
        self.dropped = homeless.intersection(&self.orphaned).copied().collect();
        for net in &self.dropped {
            let key = self.key(*net);
            removed(self.young.remove(&key))?;
        }
        self.orphaned = homeless.difference(&self.dropped).copied().collect();
        Ok(())
    }

    /// Takes along what the namespace at this address had counted before it had its element.
    fn settle(&mut self, net: u64) -> Result<(), MapError> {
        let is_settled = |slot: &Slot| slot.added_at.is_none();
        if self.slots.taken.get(&net).is_none_or(is_settled) {
            return Ok(());
        }
        let key = self.key(net);
        let young = self.young(key)?;
        removed(self.young.remove(&key))?;
        if let Some(slot) = self.slots.taken.get_mut(&net) {
            slot.start = slot.start.since(&young);
            slot.added_at = None;
        }
        Ok(())
    }

    /// Takes the counters of the namespace at this address, which is gone.
    pub(super) fn remove(&mut self, net: u64) -> Result<(), MapError> {
        let Some(&Slot { index, .. }) = self.slots.taken.get(&net) else {
            return Ok(());
        };
        self.settle(net)?;
        let key = self.key(net);
        removed(self.elsewhere.remove(&key))?;
        self.write(index, 0)?;
        self.slots.give_back(net);
        Ok(())
    }

    /// By what the kernel side knows the namespace at this address.
    fn key(&self, net: u64) -> u64 {
        net.wrapping_sub(self.origin)
    }

    /// What the namespace with this key has counted without an element.
    fn young(&self, key: u64) -> Result<NamespaceCounters, MapError> {
        let mut counted = NamespaceCounters::ZERO;
        match self.young.get(&key, 0) {
            Ok(copies) => copies.iter().for_each(|Wire(cpu)| counted.add(cpu)),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error),
        }
        Ok(counted)
    }

    fn read(&self, index: u32) -> Result<NamespaceCounters, MapError> {
        let zeros = NamespaceCounters::default();
        sum(&self.elements, index, zeros, NamespaceCounters::add)
    }

    /// Starts an element at 0, as that of the namespace with this key, or of none.
    fn write(&mut self, index: u32, key: u64) -> Result<(), MapError> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let zeros = NamespaceCounters {
            net: key,
            ..NamespaceCounters::default()
        };
        let copies = PerCpuValues::try_from(vec![Wire(zeros); cpus])?;
        self.elements.set(index, copies, 0)
    }
}

/// An element that is not there any more is removed too.
fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        result => result,
    }
}

/// The element of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    index: u32,
    id: NamespaceId,
    /// What it had counted when the namespace came to its place, less what that one had counted
    /// before it had an element.
    start: NamespaceCounters,
    /// Since when the namespace has it, while what it counted before may still change.
    added_at: Option<Instant>,
}

/// Which element belongs to which namespace, by the address of its `struct net`.
#[derive(Debug)]
struct Slots {
    is_free: Vec<bool>,
    taken: BTreeMap<u64, Slot>,
}

impl Slots {
    fn new(count: u32) -> Self {
        Self {
            is_free: vec![true; count as usize],
            taken: BTreeMap::new(),
        }
    }

    /// Takes `home`, or the next one that is free.
    fn take(&mut self, net: u64, id: NamespaceId, home: u32, now: Instant) -> Option<u32> {
        let (before, behind) = self.is_free.split_at(home as usize);
        let distance = behind.iter().chain(before).position(|is_free| *is_free)?;
        let at = (home as usize + distance) % self.is_free.len();
        let index = u32::try_from(at).ok()?;
        self.is_free[at] = false;
        let slot = Slot {
            index,
            id,
            start: NamespaceCounters::ZERO,
            added_at: Some(now),
        };
        self.taken.insert(net, slot);
        Some(index)
    }

    fn give_back(&mut self, net: u64) {
        if let Some(slot) = self.taken.remove(&net) {
            self.is_free[slot.index as usize] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: NamespaceId = NamespaceId {
        inode: 1,
        cookie: Some(1),
    };

    #[test]
    fn a_slot_belongs_to_one_namespace_until_it_is_given_back() {
        let mut slots = Slots::new(3);
        let now = Instant::now();
        assert_eq!(slots.take(10, ID, 1, now), Some(1));
        assert_eq!(slots.take(11, ID, 1, now), Some(2));
        assert_eq!(slots.take(12, ID, 1, now), Some(0));
        assert_eq!(slots.take(13, ID, 1, now), None);
        slots.give_back(11);
        assert_eq!(slots.take(13, ID, 0, now), Some(2));
    }

    #[test]
    fn giving_back_what_was_not_taken_frees_nothing() {
        let mut slots = Slots::new(1);
        slots.give_back(7);
        let now = Instant::now();
        assert!(slots.take(1, ID, 0, now).is_some());
        assert_eq!(slots.take(2, ID, 0, now), None);
    }
}
