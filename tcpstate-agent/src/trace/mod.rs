//! Transitions one by one: in the order of their sockets' lives, with who owns them.

mod ownership;
mod timeline;

pub use ownership::{Owners, Ownership, SocketOwner};
pub use timeline::{Clock, Observed, Timeline, add};
