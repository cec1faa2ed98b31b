//! Reading the kernel's own tables, by programs that are attached to nothing and run when something
//! is wanted of them.

mod cgroup;
mod chain;
mod host;
mod layout;
mod mapped;
mod owners;
mod program;
mod socket_pieces;
mod stopwatch;
mod stride;
mod tables;
mod trail;
mod walk;

use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};

pub use layout::OwnerLayout;
pub use owners::{HeldProcesses, OwnerWalk, OwnersError, OwnersReader, Progress, WalkAccount};
pub use stopwatch::Stopwatch;
pub use tables::{Contents, Details, HashTable, KernelTables, OpenError, ReadError};
pub use walk::{Faults, TableWalk};

use super::layout::Layout;

/// The programs, built by `cargo xtask ebpf build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf-object/pass.bpf.o");

/// The object, of which readers take what they need.
pub(super) struct PassObject(Ebpf);

impl PassObject {
    pub(super) fn load() -> Result<Self, EbpfError> {
        let ebpf = EbpfLoader::new()
            .btf(None)
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(OBJECT)?;
        Ok(Self(ebpf))
    }

    /// The reader of sockets, listeners, ports and namespaces.
    pub(super) fn tables(&mut self, layout: &Layout) -> Result<KernelTables, OpenError> {
        KernelTables::take(&mut self.0, layout)
    }

    /// The reader of processes. `every`: whether every TCP socket is wanted, or only those that have
    /// to do with CLOSE_WAIT. `stopwatch` knows since when they are in it.
    pub(super) fn owners(
        &mut self,
        layout: &OwnerLayout,
        every: bool,
        stopwatch: Option<Stopwatch>,
    ) -> Result<OwnersReader, OwnersError> {
        OwnersReader::take(&mut self.0, layout, every, stopwatch)
    }
}
