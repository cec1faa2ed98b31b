//! How connections end, and how long each step of it takes.

pub mod catalogue;
pub(crate) mod metrics;
mod recent;
mod words;

pub use recent::{End, RecentEnds};
pub use words::end_words;
