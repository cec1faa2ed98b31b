//! The control socket: where the terminal commands of root ask the agent.
//!
//! One request a connection: a line of JSON, answered by a line of JSON. Only root and the user
//! that the agent runs as are answered; the kernel says who asks (`SO_PEERCRED`).

mod ask;
mod path;
mod server;

use serde::{Deserialize, Serialize};

pub use self::{
    ask::{ask_close_wait, ask_connections, ask_listeners},
    server::{Control, Patience},
};
use crate::collect::{close_wait::Report, listeners::ListeningReport, outgoing::ConnectionsReport};

/// Version of requests and answers.
const PROTOCOL: u32 = 1;
/// A longer answer is none. With 10,000 listeners it is some 5 MiB.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Who keeps sockets in CLOSE_WAIT.
    CloseWait,
    /// What listens.
    Listeners,
    /// Where connections go, and which peers do not answer.
    Connections,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    protocol: u32,
    question: Question,
}

/// For the fuzzer: what a line asks, or why it asks nothing.
#[cfg(feature = "fuzzing")]
pub fn read_request(line: &[u8]) -> Result<Question, String> {
    server::read_request(line)
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Who keeps sockets in CLOSE_WAIT.
    CloseWait(Report),
    /// What listens.
    Listeners(ListeningReport),
    /// Where connections go, and which peers do not answer.
    Connections(ConnectionsReport),
    /// Why there is no answer.
    Error(String),
}
