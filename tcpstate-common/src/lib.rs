//! What the kernel side and the user side of tcpstate share.
//!
//! The eBPF programs write the types of this crate into maps and ring buffers, the agent reads
//! them back. Each type that crosses the border has a fixed layout whose size is asserted here,
//! so the two sides cannot drift apart. Bytes from the other side are never trusted: they become
//! an enum only through a checked conversion such as [`TcpState::from_kernel`].
#![no_std]
#![forbid(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "in the programs a call that is not inlined costs the verifier its knowledge"
)]

mod close_wait;
mod counters;
mod duration;
mod family;
mod kernel_field;
mod names;
mod record;
mod state;
pub mod stopwatch;

pub use close_wait::{ClockSample, OwnerRecord, QUEUE_WALKED, SocketFlags, SocketRecord};
pub use counters::{EventCounters, NamespaceCounters, SocketCounts, StateFlow, TransitionMatrix};
pub use duration::{CLOSE_WAIT_BOUNDS_NS, DURATION_BOUNDS, Durations};
pub use family::Family;
pub use kernel_field::{FIELDS, KernelField, MISSING};
pub use names::{global, map, program};
pub use record::{RecordMask, TransitionKind, TransitionRecord};
pub use state::{STATE_SLOTS, TcpState};
