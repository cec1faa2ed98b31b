//! The kernel side: what it offers, which programs run, and reading what they have counted.
//!
//! Only this module knows the BPF library. Facts about the host ([`facts`]) lead to a plan
//! ([`plan`](mod@plan)), the plan to loaded programs ([`load()`]), and those to values of
//! `tcpstate-common`.

mod btf_file;
mod event_ring;
pub mod facts;
mod flow;
pub mod kernel_btf;
mod kernel_log;
pub mod layout;
mod live_counters;
mod load;
mod needs;
mod pass;
pub mod plan;
mod reset_table;
mod segments;
mod sparse_btf;
mod stack_samples;
mod synack_table;
mod syscall;
mod wire;

pub use aya::{maps::MapError, programs::ProgramError};
pub use event_ring::{EventRing, RecordsRead, WakeUp};
pub use flow::{Counted, Flow};
pub use kernel_log::{KernelLog, KernelLogLevel};
pub use live_counters::AddError;
pub use load::{LoadError, LoadOptions, Loaded, ProgramStatus, load};
pub use pass::{
    Contents, Details, Faults, HashTable, HeldProcesses, KernelTables, OpenError, OwnerLayout,
    OwnerWalk, OwnersError, OwnersReader, Progress, ReadError, Stopwatch, TableWalk, WalkAccount,
};
pub use reset_table::{ResetTable, Resets};
pub use segments::{
    DeviceError, SegmentOptions, SegmentProgram, Segments, Trial, XdpMode, is_linked,
};
pub use stack_samples::{AcceptHook, Hooks, ReadHook, StackSampleError, StackSamples};
pub use synack_table::SynAckTable;
