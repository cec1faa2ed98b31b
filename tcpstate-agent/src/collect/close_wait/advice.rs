//! What follows from a cause: in plain words, and what to do.

use super::{Cause, Role};

/// What to tell a person about a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What the process has not done.
    pub meaning: &'static str,
    /// What is wrong in the program, most likely.
    pub fault: &'static str,
    /// What to look at in it.
    pub check: &'static str,
}

impl Advice {
    /// The advice for sockets that stay for `cause` on the side `role`.
    #[must_use]
    pub const fn of(cause: Cause, role: Role) -> Self {
        match (cause, role) {
            (Cause::Unaccepted, _) => Self {
                meaning: "the process has not called accept() for them",
                fault: "does not accept connections: its accept loop is stuck, all its workers \
                        are busy, or it is out of descriptors",
                check: "what its threads wait for, its limit of workers or connections, and its \
                        log for \"too many open files\"",
            },
            (Cause::FinUnread, Role::Client) => Self {
                meaning: "the process has not read since the peer closed",
                fault: "keeps idle connections that its servers have closed: a connection pool \
                        without health checks, or with an idle timeout longer than the server's",
                check: "the idle timeout and maximum lifetime of its connection pool; they must \
                        be shorter than the server's",
            },
            (Cause::FinUnread, Role::Server) => Self {
                meaning: "the process has not read since the peer closed",
                fault: "does not look at connections whose clients have gone: its threads are \
                        blocked elsewhere, or it has forgotten the connections",
                check: "what its threads wait for (locks, a database, another service), and \
                        whether every connection is watched for reading or has a timeout",
            },
            (Cause::DataUnread, _) => Self {
                meaning: "there is data that the process has not read",
                fault: "has stopped reading: its consumer is stuck or too slow",
                check: "what the threads that read wait for, queues that are full, and reading \
                        that was paused and never resumed",
            },
            (Cause::EofRead, _) => Self {
                meaning: "the process has read everything and has not called close()",
                fault: "leaks descriptors: there is nothing more to read, and it does not close",
                check: "every way out of the code that reads from the connection: errors, \
                        returns and exceptions without close(), responses whose body is never \
                        closed",
            },
            (Cause::Sending, _) => Self {
                meaning: "the process has read everything and still sends to peers that do not acknowledge",
                fault: "waits for peers that have closed their side and do not take the rest: \
                        slow or vanished peers, or a half-close in use",
                check: "whether it has a timeout for sending, and whether the peers listed \
                        still read",
            },
        }
    }
}

/// Whether what the threads do now tells why the sockets stay. Of a leak it does not: they have gone
/// on.
#[must_use]
pub const fn comes_of_waiting(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Unaccepted | Cause::FinUnread | Cause::DataUnread
    )
}
