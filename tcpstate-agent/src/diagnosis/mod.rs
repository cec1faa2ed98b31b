//! What `diagnose` says: the groups of sockets that stay where they should not, who keeps them
//! there, how fast they grow, and what to do.
//!
//! A [`Report`](crate::collect::close_wait::Report) is one look, made by the running agent or by the command itself. Two of them make
//! a [`Diagnosis`], which is printed as text or JSON.

pub(crate) mod compare;
pub(crate) mod namespace_paths;
mod nothing;
mod sections;
mod watching;
pub(crate) mod words;

pub use compare::{Diagnosis, Filter, NotShown};
pub use namespace_paths::NamespacePaths;
pub(crate) use nothing::write_nothing;
pub use sections::write_text;
pub use watching::Watching;
