//! Listening sockets: their queues, the connections that belong to them, and what was dropped.
//!
//! What has the same owner, namespace, address and port is one [`Listener`], however many sockets
//! it is (`SO_REUSEPORT`). Those whose labels are equal share a series; of the series, the busiest
//! are shown one by one and the others summed.

mod assignment;
pub mod catalogue;
mod decode;
mod group;
mod increments;
mod kinds;
pub(crate) mod metrics;
mod queues;
pub(crate) mod report;
mod series;
mod syn_queue;
mod text;
mod verdict;

pub use assignment::{Assignment, Labelled};
pub use decode::{ListeningSocket, listener_of};
pub use group::{Listener, Place, Served, group};
pub use increments::{Increment, Increments};
pub use kinds::{HalfOpenKind, HalfOpenKinds};
pub use queues::QueueSums;
pub use report::{ListenerTrouble, ListeningReport, ReportListener};
pub use series::{ListenerKey, ListenerSeries, Totals, top};
pub use syn_queue::SynQueueLimits;
pub use text::write_table;
pub(crate) use text::write_troubles;
pub use verdict::DiagnosedListener;
