//! Connections whose peers do not answer, or do not close.

mod decode;
mod survey;

pub use decode::{Silence, Unanswered};
pub use survey::{ATTEMPTS, SILENT, UnansweredKey, UnansweredSurvey, UnansweredTally};
