//! The flow engine's counters: what happened.

use aya::{
    maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues},
    programs::tp_btf::BtfTracePointLink,
    util::nr_cpus,
};
use tcpstate_common::{EventCounters, NamespaceCounters, TransitionMatrix};

use super::wire::Wire;

/// `BPF_NOEXIST`: make the element only where there is none.
const BPF_NOEXIST: u64 = 1;

/// The counters of the attached transition program. Dropping it detaches the program.
pub struct Flow {
    pub(super) transitions: PerCpuArray<MapData, Wire<TransitionMatrix>>,
    pub(super) namespaces: PerCpuHashMap<MapData, u32, Wire<NamespaceCounters>>,
    pub(super) event_counters: PerCpuArray<MapData, Wire<EventCounters>>,
    /// Owned by this process: the kernel detaches the program when it dies, however it dies.
    pub(super) _link: BtfTracePointLink,
}

impl Flow {
    /// All transitions since the program was attached.
    pub fn transitions(&self) -> Result<TransitionMatrix, MapError> {
        let per_cpu = self.transitions.get(&0, 0)?;
        let mut sum = TransitionMatrix::ZERO;
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

    /// The namespaces that have counters, by inode number. One that is added or removed
    /// meanwhile may be there or not.
    pub fn namespaces(&self) -> Result<Vec<u32>, MapError> {
        self.namespaces.keys().collect()
    }

    /// The counters of a namespace; zeros where it has none.
    pub fn namespace(&self, inode: u32) -> Result<NamespaceCounters, MapError> {
        let mut sum = NamespaceCounters::default();
        match self.namespaces.get(&inode, 0) {
            Ok(per_cpu) => {
                for Wire(cpu) in per_cpu.iter() {
                    sum.add(cpu);
                }
                Ok(sum)
            }
            Err(MapError::KeyNotFound) => Ok(sum),
            Err(error) => Err(error),
        }
    }

    /// Makes the counters of a namespace, if there are none, so that its first transition need
    /// not.
    pub fn add_namespace(&mut self, inode: u32) -> Result<(), MapError> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let zeros = PerCpuValues::try_from(vec![Wire(NamespaceCounters::default()); cpus])?;
        match self.namespaces.insert(inode, zeros, BPF_NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// Forgets the counters of a namespace that is gone.
    pub fn remove_namespace(&mut self, inode: u32) -> Result<(), MapError> {
        match self.namespaces.remove(&inode) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            done => done,
        }
    }
}
