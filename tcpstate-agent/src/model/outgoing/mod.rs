//! Outgoing connections: where they go, and which part of the ports for going there is taken.
//!
//! A port can be used once for each destination and local address, so the parts are those of one
//! way. Pure.

mod namespace;
mod reuse;
mod series;
mod table;

pub use namespace::{NamespaceOutgoing, PortRules, Way};
pub use reuse::Reuse;
pub use series::{OutgoingSeries, merge};
pub use table::{Destination, DestinationCounts, DestinationTable, MAX_DESTINATIONS};
