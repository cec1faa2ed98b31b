//! Connections whose peers do not answer.

mod decode;
mod survey;

pub use decode::Unanswered;
pub use survey::{ATTEMPTS, SILENT, UnansweredKey, UnansweredSurvey, UnansweredTally};
