//! The metrics: what they are called and mean ([`catalogue`]), and filling them from a reading.

pub mod catalogue;
mod close_wait;
mod closes;
mod families;
mod family;
mod http;
mod kernel;
mod listeners;
mod outgoing;
mod page;
mod segments;

pub use family::Spare;
pub use page::{MetricsPage, PageError, of_listeners};
/// Of a page of metrics.
pub use prometheus::TEXT_FORMAT as CONTENT_TYPE;
