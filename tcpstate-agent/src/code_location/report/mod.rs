//! What `where` says: stuck sockets grouped by where in the code they were last used, and threads by
//! what they wait for.

mod advice;
mod grouping;
mod text;

use serde::Serialize;

use super::{frame::Frame, waits::ThreadGroup};

pub use grouping::{Sockets, group};
pub use text::write_text;

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Rises with changes that break readers.
    pub schema_version: u32,
    /// Which process.
    pub process: ProcessFound,
    /// Others that fit what was asked for, and were not looked at.
    pub others: Vec<ProcessFound>,
    /// How it was watched; none where it was not.
    pub watch: Option<WatchFound>,
    /// Sockets that stay in CLOSE_WAIT, most first.
    pub groups: Vec<SocketGroup>,
    /// What the threads do now, most first.
    pub threads: Vec<ThreadGroup>,
    /// What could not be told, and why.
    pub notes: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessFound {
    /// Its number.
    pub pid: u32,
    /// What it calls itself.
    pub name: String,
    /// Sockets in CLOSE_WAIT that it held before the watch.
    pub close_wait: usize,
}

/// How a process was watched.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WatchFound {
    /// For how long.
    pub seconds: f64,
    /// By what reads were seen: `sock_recv_length`, `tcp_recvmsg` or `system_calls`.
    pub reads_by: &'static str,
    /// By what accepts were seen: `inet_csk_accept` or `system_calls`; none where they were not.
    pub accepts_by: Option<&'static str>,
    /// Whether the process has ended meanwhile.
    pub has_ended: bool,
    /// Connects, accepts, reads of data, and reads of the end that were seen.
    pub events: Events,
    /// Events whose stacks were to be copied.
    pub samples_wanted: u64,
    /// Those that were.
    pub samples: u64,
    /// Connections that came into CLOSE_WAIT.
    pub entered_close_wait: u64,
    /// Those that the process then closed.
    pub left_close_wait: u64,
    /// Sockets that came into CLOSE_WAIT less than a second before the end, and are in no group.
    pub recent: u64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Events {
    /// `connect()`.
    pub connects: u64,
    /// `accept()`.
    pub accepts: u64,
    /// Reads that took data.
    pub reads: u64,
    /// Reads that saw the end of file or an error.
    pub end_reads: u64,
}

/// Sockets that stay in CLOSE_WAIT and were last used at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketGroup {
    /// How many.
    pub sockets: u64,
    /// Why they stay: as in `diagnose`.
    pub cause: &'static str,
    /// Whether they were seen while they were watched; else all of them are older.
    pub watched: bool,
    /// Sockets whose stacks were not copied, because there were too many at once.
    pub unsampled: u64,
    /// Where they were last read.
    pub last_read: Option<Place>,
    /// Whether that read saw the end of file.
    pub end_was_read: bool,
    /// Where they were first read, which names what handles them.
    pub first_read: Option<Place>,
    /// Where they were opened.
    pub opened: Option<Place>,
    /// Where they were accepted.
    pub accepted: Option<Place>,
    /// Whom they lead to, most first.
    pub peers: Vec<PeerCount>,
}

/// A place, with what called it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The functions of the program's own code, on one line.
    pub summary: String,
    /// All frames, the innermost first.
    pub frames: Vec<Frame>,
    /// Whether the frames end where the thread began.
    pub complete: bool,
}

/// How many sockets lead to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerCount {
    /// The peer; for clients with the port, for servers without.
    pub address: String,
    /// How many.
    pub sockets: u64,
}
