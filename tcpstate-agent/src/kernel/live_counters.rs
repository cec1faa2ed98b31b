//! The counters of each network namespace, and which element of the kernel side's array has those
//! of which.
//!
//! The kernel side knows a namespace by the place of its `struct net`. When a namespace goes and
//! another comes to lie in its place, it goes on counting, and what it counts is of the other: so
//! the counters are never set back while they are in use, and [`add`](LiveCounters::add) takes note
//! of where they were.

use std::{collections::BTreeMap, io};

use aya::{
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use tcpstate_common::NamespaceCounters;
use thiserror::Error;

use super::{flow::sum, wire::Wire};
use crate::collect::sockets::NamespaceId;

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
    /// What the addresses of namespaces are measured from there.
    origin: u64,
    slots: Slots,
}

impl LiveCounters {
    pub(super) fn new(
        elements: PerCpuArray<MapData, Wire<NamespaceCounters>>,
        elsewhere: HashMap<MapData, u64, u32>,
        origin: u64,
    ) -> Self {
        Self {
            slots: Slots::new(elements.len()),
            elements,
            elsewhere,
            origin,
        }
    }

    /// The counters of the namespace whose `struct net` is at this address; zeros where it has none.
    pub(super) fn of(&self, net: u64) -> Result<NamespaceCounters, MapError> {
        match self.slots.taken.get(&net) {
            Some(slot) => Ok(self.read(slot.index)?.since(&slot.start)),
            None => Ok(NamespaceCounters::default()),
        }
    }

    /// Gives the namespace at this address counters, which start at 0. Does nothing where it has
    /// them.
    pub(super) fn add(&mut self, net: u64, id: NamespaceId) -> Result<(), AddError> {
        if let Some(&Slot { index, id: had, .. }) = self.slots.taken.get(&net) {
            if had != id {
                let start = self.read(index)?;
                self.slots.taken.insert(net, Slot { index, id, start });
            }
            return Ok(());
        }
        let key = net.wrapping_sub(self.origin);
        let home = NamespaceCounters::home(key, self.elements.len());
        let index = self
            .slots
            .take(net, id, home)
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

    /// Takes the counters of the namespace at this address, which is gone.
    pub(super) fn remove(&mut self, net: u64) -> Result<(), MapError> {
        let Some(&Slot { index, .. }) = self.slots.taken.get(&net) else {
            return Ok(());
        };
        match self.elsewhere.remove(&net.wrapping_sub(self.origin)) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.write(index, 0)?;
        self.slots.give_back(net);
        Ok(())
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

/// The element of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    index: u32,
    id: NamespaceId,
    /// What it had counted when the namespace came to its place.
    start: NamespaceCounters,
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
    fn take(&mut self, net: u64, id: NamespaceId, home: u32) -> Option<u32> {
        let (before, behind) = self.is_free.split_at(home as usize);
        let distance = behind.iter().chain(before).position(|is_free| *is_free)?;
        let at = (home as usize + distance) % self.is_free.len();
        let index = u32::try_from(at).ok()?;
        self.is_free[at] = false;
        let start = NamespaceCounters::default();
        self.taken.insert(net, Slot { index, id, start });
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
        assert_eq!(slots.take(10, ID, 1), Some(1));
        assert_eq!(slots.take(11, ID, 1), Some(2));
        assert_eq!(slots.take(12, ID, 1), Some(0));
        assert_eq!(slots.take(13, ID, 1), None);
        slots.give_back(11);
        assert_eq!(slots.take(13, ID, 0), Some(2));
    }

    #[test]
    fn giving_back_what_was_not_taken_frees_nothing() {
        let mut slots = Slots::new(1);
        slots.give_back(7);
        assert!(slots.take(1, ID, 0).is_some());
        assert_eq!(slots.take(2, ID, 0), None);
    }
}
