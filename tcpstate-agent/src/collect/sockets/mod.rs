//! How many sockets there are, by namespace, family and state.

pub mod catalogue;
mod census;
mod legal;
pub(crate) mod metrics;
mod minisockets;
mod namespace;
mod offset;

pub use census::Census;
pub use legal::LEGAL_TRANSITIONS;
pub use minisockets::Minisockets;
pub use namespace::{NamespaceId, NamespaceModel, Pass};
pub use offset::Offset;
