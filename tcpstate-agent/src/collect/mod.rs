//! What is collected, one folder a subject: its decoding, model, series, metrics, report and text.
//!
//! For each namespace, and each family and state: *gauge = live counter + offset*. The live
//! counter moves with every transition; the offset is what a snapshot found minus what the live
//! counter said meanwhile. What has no transitions (minisockets, half-open connections) comes
//! from the snapshot and from the kernel's own cheap counts. One pass over the kernel's tables tells of
//! all subjects; a [`Look`] sorts what it meets.
//!
//! What is here is pure: values in, values out, time passed in. But for two: [`segments`] follows
//! network interfaces, and reports look up in `/proc` what the processes run.

mod admission;
pub mod close_wait;
pub mod closes;
pub mod counters;
pub mod listeners;
mod look;
mod named;
pub mod outgoing;
pub mod owners;
pub mod segments;
pub mod sockets;
pub mod unanswered;

pub use admission::{Admission, LabelSet, SeriesLimits};
pub use look::{Found, Look, NamespaceFound, SocketCounts};
pub use named::{NamedService, NamedServiceError};
