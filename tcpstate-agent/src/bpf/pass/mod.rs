//! Reading the kernel's own tables, by programs that are attached to nothing and run when something
//! is wanted of them.

mod cgroup;
mod chain;
mod layout;
mod mapped;
mod owners;
mod program;
mod stopwatch;
mod trail;

pub use layout::OwnerLayout;
pub use owners::{HeldProcesses, OwnerWalk, OwnersError, OwnersReader, Progress, WalkAccount};
pub use stopwatch::Stopwatch;
