//! What `diagnose` says: the groups of sockets that stay where they should not, who keeps them
//! there, how fast they grow, and what to do.
//!
//! A [`Report`] is one look, made by the running agent or by the command itself. Two of them make
//! a [`Diagnosis`], which is printed as text or JSON.

mod alike;
pub(crate) mod compare;
mod growth;
pub(crate) mod namespace_paths;
mod nothing;
pub(crate) mod report;
pub(crate) mod text;
pub(crate) mod words;

pub use compare::{DiagnosedGroup, DiagnosedListener, Diagnosis, Filter, NotShown};
pub use namespace_paths::NamespacePaths;
pub use report::{Report, ReportCgroup, ReportGroup, ReportPeer, ReportProcess};
pub use text::write_text;
