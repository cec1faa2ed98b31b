//! What `diagnose` says: the groups of sockets that stay where they should not, who keeps them
//! there, how fast they grow, and what to do.
//!
//! A [`Report`] is one look, made by the running agent or by the command itself. Two of them make
//! a [`Diagnosis`], which is printed as text or JSON.

mod advice;
mod compare;
mod connections;
mod connections_compare;
mod connections_text;
mod listening;
mod listening_text;
mod report;
mod text;
mod words;

pub use advice::{Advice, comes_of_waiting};
pub use compare::{DiagnosedGroup, DiagnosedListener, Diagnosis, Filter, NotShown};
pub use connections::{ConnectionsReport, ReportDestination, ReportUnanswered, UnansweredState};
pub use connections_compare::{DiagnosedDestination, DiagnosedUnanswered};
pub use listening::{ListenerTrouble, ListeningReport, ReportListener};
pub use listening_text::write_table;
pub use report::{Report, ReportCgroup, ReportGroup, ReportPeer, ReportProcess};
pub use text::write_text;
