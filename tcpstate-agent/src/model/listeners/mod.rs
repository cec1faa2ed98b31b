//! Listening sockets: their queues, the connections that belong to them, and what was dropped.
//!
//! What has the same owner, namespace, address and port is one [`Listener`], however many sockets
//! it is (`SO_REUSEPORT`). Those whose labels are equal share a series; of the series, the busiest
//! are shown one by one and the others summed.

mod assignment;
mod group;
mod increments;
mod kinds;
mod queues;
mod series;
mod syn_queue;

pub use assignment::{Assignment, Labelled};
pub use group::{Listener, Place, Served, group};
pub use increments::{Increment, Increments};
pub use kinds::{HalfOpenKind, HalfOpenKinds};
pub use queues::QueueSums;
pub use series::{ListenerKey, ListenerSeries, Totals, top};
pub use syn_queue::SynQueueLimits;
