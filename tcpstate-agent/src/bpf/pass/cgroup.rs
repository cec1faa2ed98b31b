//! Who runs a process, by the paths of its cgroups.

use aya::{Ebpf, maps::MapError, programs::ProgramError};
use rustc_hash::FxHashMap;
use tcpstate_common::{
    map,
    pass::{Cgroup, CgroupRequest, TaskRecord},
    program,
};
use zerocopy::FromZeros as _;

use super::{mapped::Mapped, program::Program};
use crate::{decode::cgroup_path, process::CgroupIdentity};

/// Cgroups that are remembered. One has a number for good, and its name never changes; of a host
/// with more all are forgotten together.
const MAX_KNOWN: usize = 8192;

/// Reads the paths of cgroups, and remembers what they tell.
pub(super) struct CgroupReader {
    program: Program,
    element: Mapped<Cgroup>,
    layout: CgroupRequest,
    known: FxHashMap<[u64; 2], CgroupIdentity>,
}

impl CgroupReader {
    pub(super) fn take(ebpf: &mut Ebpf, layout: CgroupRequest) -> Result<Self, ReadError> {
        Ok(Self {
            program: Program::load(ebpf, program::CGROUP)?,
            element: Mapped::take(ebpf, map::CGROUP)?,
            layout,
            known: FxHashMap::default(),
        })
    }

    pub(super) const fn verified(&self) -> u32 {
        self.program.verified()
    }

    /// Who runs what is in the cgroup with this node and number, in the unified hierarchy.
    pub(super) fn of_node(&mut self, node: u64, id: u64) -> Result<CgroupIdentity, ProgramError> {
        self.identity(&TaskRecord {
            cgroup_node: node,
            cgroup_id: id,
            pids_id: id,
            ..TaskRecord::new_zeroed()
        })
    }

    /// Who runs a process. Empty where its cgroups are gone meanwhile.
    pub(super) fn identity(&mut self, of: &TaskRecord) -> Result<CgroupIdentity, ProgramError> {
        let key = [of.cgroup_id, of.pids_id];
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let unified = self.path(of.cgroup_node, of.cgroup_id)?;
        let controller = match of.pids_id {
            id if id == of.cgroup_id => None,
            id => self.path(of.pids_node, id)?,
        };
        let is_whole = unified.is_some() && (controller.is_some() || of.pids_id == of.cgroup_id);
        let identity = CgroupIdentity::of_paths(unified.as_deref(), controller.as_deref());
        if is_whole {
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            self.known.insert(key, identity.clone());
        }
        Ok(identity)
    }

    fn path(&mut self, node: u64, id: u64) -> Result<Option<String>, ProgramError> {
        if node == 0 {
            return Ok(None);
        }
        self.element.get_mut().request = CgroupRequest {
            node,
            id,
            ..self.layout
        };
        self.program.run()?;
        Ok(cgroup_path(self.element.get()))
    }
}

/// Why the programs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// One was refused.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A map cannot be read.
    #[error(transparent)]
    Map(#[from] MapError),
}
