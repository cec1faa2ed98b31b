//! The flow engine's counters: what happened.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use aya::{
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuValues},
    programs::tp_btf::BtfTracePointLink,
    util::nr_cpus,
};
use tcpstate_common::{Durations, EventCounters, NamespaceCounters, TransitionMatrix};

use super::wire::Wire;

/// The counters of the attached transition program. Dropping it detaches the program.
pub struct Flow {
    transitions: PerCpuArray<MapData, Wire<TransitionMatrix>>,
    namespaces: HashMap<MapData, u32, u32>,
    live: PerCpuArray<MapData, Wire<NamespaceCounters>>,
    durations: PerCpuArray<MapData, Wire<Durations>>,
    event_counters: PerCpuArray<MapData, Wire<EventCounters>>,
    slots: Slots,
    /// Keeps the program's account open.
    program: OwnedFd,
    /// Owned by this process: the kernel detaches the program when it dies, however it dies.
    _link: BtfTracePointLink,
}

/// The maps of the flow engine.
pub(super) struct FlowMaps {
    pub(super) transitions: PerCpuArray<MapData, Wire<TransitionMatrix>>,
    pub(super) namespaces: HashMap<MapData, u32, u32>,
    pub(super) live: PerCpuArray<MapData, Wire<NamespaceCounters>>,
    pub(super) durations: PerCpuArray<MapData, Wire<Durations>>,
    pub(super) event_counters: PerCpuArray<MapData, Wire<EventCounters>>,
}

/// Why a namespace has no live counters.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// As many namespaces as fit have them.
    #[error("no room for the live counters of more than {0} network namespaces")]
    Full(u32),
    /// The maps could not be written.
    #[error("cannot write live counters: {0}")]
    Map(#[from] MapError),
}

impl Flow {
    pub(super) fn new(maps: FlowMaps, program: OwnedFd, link: BtfTracePointLink) -> Self {
        let FlowMaps {
            transitions,
            namespaces,
            live,
            durations,
            event_counters,
        } = maps;
        Self {
            transitions,
            namespaces,
            slots: Slots::new(live.len()),
            live,
            durations,
            event_counters,
            program,
            _link: link,
        }
    }

    /// All transitions since the program was attached.
    pub fn transitions(&self) -> Result<TransitionMatrix, MapError> {
        let per_cpu = self.transitions.get(&0, 0)?;
        let mut sum = TransitionMatrix::ZERO;
        for Wire(cpu) in per_cpu.iter() {
            sum.add(cpu);
        }
        Ok(sum)
    }

    /// Transitions that the program did not see. The kernel runs no program inside itself
    /// ([`__bpf_trace_run`], since 5.12 with a count): a transition in an interrupt that comes
    /// while the program runs on that CPU is passed over. Some of a million, at most.
    ///
    /// [`__bpf_trace_run`]: https://github.com/torvalds/linux/blob/v6.12/kernel/trace/bpf_trace.c
    pub fn missed(&self) -> io::Result<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        Ok(parse_missed(&fs::read_to_string(path)?))
    }

    /// How long sockets stayed in CLOSE_WAIT that have left it since the program was attached.
    pub fn close_wait_durations(&self) -> Result<Durations, MapError> {
        let per_cpu = self.durations.get(&0, 0)?;
        let mut sum = Durations::default();
        for Wire(cpu) in per_cpu.iter() {
            sum.add(cpu);
        }
        Ok(sum)
    }

    /// What became of the records since the program was attached.
    pub fn events(&self) -> Result<EventCounters, MapError> {
        let per_cpu = self.event_counters.get(&0, 0)?;
        let mut sum = EventCounters::default();
        for Wire(cpu) in per_cpu.iter() {
            sum.add(cpu);
        }
        Ok(sum)
    }

    /// The counters of a namespace; zeros where it has none.
    pub fn namespace(&self, inode: u32) -> Result<NamespaceCounters, MapError> {
        let mut sum = NamespaceCounters::default();
        if let Some(slot) = self.slots.of(inode) {
            for Wire(cpu) in self.live.get(&slot, 0)?.iter() {
                sum.add(cpu);
            }
        }
        Ok(sum)
    }

    /// Gives a namespace live counters, which start at 0. To be done before it is counted for
    /// the first time. Does nothing where it has them.
    pub fn add_namespace(&mut self, inode: u32) -> Result<(), AddError> {
        if self.slots.of(inode).is_some() {
            return Ok(());
        }
        let slot = self
            .slots
            .take(inode)
            .ok_or_else(|| AddError::Full(self.live.len()))?;
        let added = self
            .write_slot(slot, inode)
            .and_then(|()| self.namespaces.insert(inode, slot, 0));
        if added.is_err() {
            self.slots.give_back(inode);
        }
        Ok(added?)
    }

    /// Takes the live counters of a namespace that is gone.
    pub fn remove_namespace(&mut self, inode: u32) -> Result<(), MapError> {
        if let Some(slot) = self.slots.of(inode) {
            self.forget(inode)?;
            // A CPU that still remembers the element must not take it for that of a later
            // namespace with the same number.
            self.write_slot(slot, 0)?;
            self.slots.give_back(inode);
        }
        Ok(())
    }

    /// The namespaces in which transitions were seen and that have no live counters.
    pub fn strangers(&self) -> Result<Vec<u32>, MapError> {
        let mut strangers = Vec::new();
        for inode in self.namespaces.keys() {
            let inode = inode?;
            if self.slots.of(inode).is_none() {
                strangers.push(inode);
            }
        }
        Ok(strangers)
    }

    /// Forgets a stranger, until it shows up again.
    pub fn forget_stranger(&mut self, inode: u32) -> Result<(), MapError> {
        if self.slots.of(inode).is_some() {
            return Ok(());
        }
        self.forget(inode)
    }

    fn forget(&mut self, inode: u32) -> Result<(), MapError> {
        match self.namespaces.remove(&inode) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// Starts the counters of a slot at 0, as those of `namespace`.
    fn write_slot(&mut self, slot: u32, namespace: u32) -> Result<(), MapError> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let zeros = NamespaceCounters {
            namespace,
            ..NamespaceCounters::default()
        };
        self.live
            .set(slot, PerCpuValues::try_from(vec![Wire(zeros); cpus])?, 0)
    }
}

/// Finds `recursion_misses` in what the kernel tells of a program's descriptor; 0 before 5.12,
/// which does not count them.
fn parse_missed(fdinfo: &str) -> u64 {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Which element of the array of live counters belongs to which namespace.
#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    taken: BTreeMap<u32, u32>,
}

impl Slots {
    fn new(count: u32) -> Self {
        Self {
            free: (0..count).rev().collect(),
            taken: BTreeMap::new(),
        }
    }

    fn of(&self, namespace: u32) -> Option<u32> {
        self.taken.get(&namespace).copied()
    }

    fn take(&mut self, namespace: u32) -> Option<u32> {
        let slot = self.free.pop()?;
        self.taken.insert(namespace, slot);
        Some(slot)
    }

    fn give_back(&mut self, namespace: u32) {
        self.free.extend(self.taken.remove(&namespace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_belongs_to_one_namespace_until_it_is_given_back() {
        let mut slots = Slots::new(2);
        let (first, second) = (slots.take(10), slots.take(11));
        assert_ne!(first, second);
        assert_eq!(slots.take(12), None);
        assert_eq!(slots.of(10), first);
        slots.give_back(10);
        assert_eq!(slots.of(10), None);
        assert_eq!(slots.take(12), first);
    }

    #[test]
    fn missed_transitions_are_found_in_the_account_of_the_program() {
        let fdinfo = "pos:\t0\nprog_type:\t26\nrun_cnt:\t0\nrecursion_misses:\t17\n";
        assert_eq!(parse_missed(fdinfo), 17);
        assert_eq!(parse_missed("pos:\t0\n"), 0);
    }

    #[test]
    fn giving_back_what_was_not_taken_frees_nothing() {
        let mut slots = Slots::new(1);
        slots.give_back(7);
        assert!(slots.take(1).is_some());
        assert_eq!(slots.take(2), None);
    }
}
