//! The metrics: what they are called and mean ([`catalogue`]), and filling them from a reading.

pub mod catalogue;
mod families;
pub(crate) mod family;
mod http;
mod page;

pub use family::Spare;
pub use page::{MetricsPage, PageError, of_listeners};
/// Of a page of metrics.
pub use prometheus::TEXT_FORMAT as CONTENT_TYPE;
