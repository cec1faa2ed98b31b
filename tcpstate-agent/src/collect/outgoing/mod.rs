//! Outgoing connections: where they go, and which part of the ports for going there is taken.
//!
//! A port can be used once for each destination and local address, so the parts are those of one
//! way. Pure.

pub mod catalogue;
mod holders;
pub(crate) mod metrics;
mod namespace;
pub(crate) mod report;
mod reuse;
mod series;
mod table;
mod text;
mod verdict;

pub use holders::{NamedPortHolders, PortHolders};
pub use namespace::{NamespaceOutgoing, PortRules, Way};
pub use report::{ConnectionsReport, ReportDestination};
pub use reuse::Reuse;
pub use series::{OutgoingSeries, merge};
pub use table::{Destination, DestinationCounts, DestinationTable, MAX_DESTINATIONS};
pub(crate) use text::write_destinations;
pub use verdict::DiagnosedDestination;
pub(crate) use verdict::bracketed;
