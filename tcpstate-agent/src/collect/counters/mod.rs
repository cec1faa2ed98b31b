//! The kernel's own counters and limits, by network namespace and all together.

pub mod catalogue;
pub(crate) mod metrics;
mod namespace;
mod totals;

pub use namespace::{KernelCounter, KernelCounters};
pub use totals::{KernelTotals, Origin};
