//! Who keeps sockets in CLOSE_WAIT, since when, and why.
//!
//! Two walks, one after the other. The *survey* is what a pass over the sockets has found: it is
//! complete, but knows no process. The *holdings* come from a walk over the descriptors of all
//! processes; they know the process, and miss what no descriptor leads to. [`attribute`] joins
//! them, group by group: what the survey has found and no holding explains has no owner.
//!
//! What is kept grows with the number of groups, which is bounded, never with that of sockets.

mod accepters;
pub mod advice;
mod age;
mod alike;
mod attribution;
pub mod catalogue;
mod cause;
pub(crate) mod diagnosed;
#[cfg(test)]
mod golden;
mod growth;
mod holdings;
pub(crate) mod metrics;
pub(crate) mod mptcp;
mod peers;
mod queues;
mod remedies;
mod report;
mod survey;
mod tally;
mod text;
mod tick_rate;
mod top;
pub(crate) mod verdict;

pub use age::{Age, Ages, OLDER_THAN_SECONDS};
pub use attribution::{Group, attribute};
pub use cause::Cause;
pub use diagnosed::DiagnosedGroup;
pub(crate) use growth::SURELY_SEEN;
pub use holdings::Holdings;
pub(crate) use mptcp::write_mptcp;
pub use mptcp::{DiagnosedMptcp, MptcpTally, ReportMptcp};
pub use peers::Peers;
pub use queues::{Queues, Times};
pub use report::{Candidate, Report, ReportGroup, ReportPeer};
pub use survey::{Role, Service, Survey};
pub use tally::Tally;
pub(crate) use text::write_close_wait;
pub use tick_rate::TickRate;
pub use top::{OTHER, Series, SeriesKey, VerdictKey, top};
pub use verdict::{Facts, HolderFacts, Verdict};
