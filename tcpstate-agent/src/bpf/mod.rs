//! The kernel side: what it offers, which programs run, and reading what they have counted.
//!
//! Only this module knows the BPF library. Facts about the host ([`facts`]) lead to a plan
//! ([`plan`](mod@plan)), the plan to loaded programs ([`load()`]), and those to values of
//! `tcpstate-common`.

mod event_ring;
pub mod facts;
mod flow;
pub mod kernel_btf;
mod kernel_log;
mod load;
pub mod plan;
mod socket_pass;
mod wire;

pub use event_ring::{EventRing, RecordsRead, WakeUp};
pub use flow::{AddError, Flow};
pub use kernel_log::{KernelLog, KernelLogLevel};
pub use load::{LoadError, LoadOptions, Loaded, ProgramStatus, load};
pub use socket_pass::{PassError, SocketPass};
