//! The network namespaces of the host: finding them, entering them, and what each tells cheaply.

mod discover;
mod enter;
mod kernel_counters;
mod limits;
mod port_rules;
mod sockstat;
mod tables;

pub use discover::{Discovery, Found, Hidden, Namespace, proc_mark};
pub use enter::{VisitError, Visitor};
pub use kernel_counters::{KernelCounter, KernelCounters};
pub use limits::Limits;
pub use port_rules::PortRules;
pub use sockstat::SockStat;
pub use tables::Tables;
