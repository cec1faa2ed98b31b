//! From counters and snapshots to gauges.
//!
//! For each namespace, and each family and state: *gauge = live counter + offset*. The live
//! counter moves with every transition; the offset is what a snapshot found minus what the live
//! counter said meanwhile. What has no transitions (minisockets, half-open connections) comes
//! from the snapshot and from the kernel's own cheap counts.
//!
//! Everything here is pure: values in, values out, time passed in.

pub mod budget;
mod census;
pub mod close_wait;
pub mod kernel_counters;
mod kernel_totals;
mod legal;
pub mod listeners;
mod look;
mod minisockets;
mod namespace;
mod offset;
pub mod outgoing;
pub mod unanswered;

pub use census::Census;
pub use kernel_totals::{KernelTotals, Origin};
pub use legal::LEGAL_TRANSITIONS;
pub use look::{Found, Look, NamespaceFound, SocketCounts};
pub use minisockets::Minisockets;
pub use namespace::{NamespaceId, NamespaceModel, Pass};
pub use offset::Offset;
