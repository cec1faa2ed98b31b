//! Connections whose peers do not answer, or do not close.

mod decode;
pub(crate) mod report;
mod survey;
mod text;
mod verdict;

pub use decode::{Silence, Unanswered};
pub use report::{ReportUnanswered, UnansweredState};
pub use survey::{ATTEMPTS, SILENT, UnansweredKey, UnansweredSurvey, UnansweredTally};
pub(crate) use text::write_unanswered;
pub use verdict::DiagnosedUnanswered;
