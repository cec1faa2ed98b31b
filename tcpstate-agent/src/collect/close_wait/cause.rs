//! Why a socket stays in CLOSE_WAIT.

use serde::{Deserialize, Serialize};

use crate::decode::CloseWaitSocket;

/// What the process that holds the socket has not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It has not called accept().
    Unaccepted,
    /// It has not read since the peer closed; only the FIN is unread.
    FinUnread,
    /// It has not read the data that came before the FIN.
    DataUnread,
    /// It has read everything, with the last data the end-of-file, and has not called close().
    EofRead,
    /// It has read everything and is still sending to a peer that does not acknowledge.
    Sending,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 5] = [
        Self::Unaccepted,
        Self::FinUnread,
        Self::DataUnread,
        Self::EofRead,
        Self::Sending,
    ];

    /// The cause that follows from what the kernel holds of a socket.
    #[must_use]
    pub const fn of(socket: &CloseWaitSocket) -> Self {
        // close() in CLOSE_WAIT goes to LAST_ACK at once, so a socket here that belongs to no
        // file was never accepted. The FIN takes one sequence number of those unread.
        match (socket.is_accepted, socket.unread, socket.unsent) {
            (false, _, _) => Self::Unaccepted,
            (true, 0, 0) => Self::EofRead,
            (true, 0, _) => Self::Sending,
            (true, 1, _) => Self::FinUnread,
            (true, _, _) => Self::DataUnread,
        }
    }

    /// What the process has not done, in words.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Unaccepted => "the process has not called accept() for them",
            Self::FinUnread => "the process has not read since the peer closed",
            Self::DataUnread => "there is data that the process has not read",
            Self::EofRead => "the process has read everything and has not called close()",
            Self::Sending => {
                "the process has read everything and still sends to peers that do not acknowledge"
            }
        }
    }

    /// The name in metrics and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unaccepted => "unaccepted",
            Self::FinUnread => "fin_unread",
            Self::DataUnread => "data_unread",
            Self::EofRead => "eof_read",
            Self::Sending => "sending",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_follows_from_the_queues_and_the_file() {
        for (is_accepted, unread, unsent, cause) in [
            (false, 1, 0, Cause::Unaccepted),
            (false, 101, 0, Cause::Unaccepted),
            (false, 0, 0, Cause::Unaccepted),
            (true, 1, 0, Cause::FinUnread),
            (true, 1, 5_000, Cause::FinUnread),
            (true, 2, 0, Cause::DataUnread),
            (true, 101, 0, Cause::DataUnread),
            (true, 101, 7, Cause::DataUnread),
            (true, 0, 0, Cause::EofRead),
            (true, 0, 1, Cause::Sending),
            (true, 0, 2_500_000, Cause::Sending),
        ] {
            let socket = CloseWaitSocket {
                socket: 1,
                namespace: 1,
                since_ns: None,
                last_ack_jiffies: 0,
                last_data_jiffies: None,
                last_sent_jiffies: None,
                unread,
                unsent,
                is_accepted,
                local_port: 80,
                remote: "10.0.0.1:1".parse().unwrap(),
                cgroup: 0,
            };
            assert_eq!(Cause::of(&socket), cause, "{is_accepted} {unread} {unsent}");
        }
    }

    #[test]
    fn names_are_those_of_the_json() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
        }
    }
}
