//! The network namespaces of the host: finding them, entering them, and what each tells cheaply.

mod discover;
mod enter;
mod sockstat;

pub use discover::{Discovery, Found, Hidden, Namespace, proc_mark};
pub use enter::{VisitError, Visitor};
pub use sockstat::SockStat;
