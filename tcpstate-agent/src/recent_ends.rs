//! The connections that ended abnormally, the last of them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use serde::Serialize;
use tcpstate_common::TcpState;

use crate::decode::Transition;

/// How many are kept.
const KEPT: usize = 1024;

/// The last abnormal ends, oldest first.
#[derive(Clone, Debug, Default)]
pub struct RecentEnds {
    ends: VecDeque<End>,
}

/// One connection that ended abnormally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// The other side.
    pub peer: IpAddr,
    /// What cut it short.
    pub cause: EndCause,
}

/// What cut a connection short, as far as its last transition tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// A reset from the peer, or one that answered what the peer sent.
    Reset,
    /// Too many retransmissions or keepalives without an answer.
    TimedOut,
    /// No one listens there.
    Refused,
    /// No route, or a router said so.
    Unreachable,
    /// No local port was left for the connection.
    NoPort,
    /// This side dropped it: `SO_LINGER` 0, close with unread data, a listener that closed.
    Aborted,
    /// An error that none of these stands for.
    Other,
}

impl EndCause {
    /// The cause of a transition from `old` to CLOSE with `sk_err` = `error`, of a socket bound
    /// to `local_port`.
    #[must_use]
    pub const fn of(old: TcpState, error: i32, local_port: u16) -> Self {
        use libc_errno as errno;
        match error {
            errno::ECONNRESET | errno::EPIPE => Self::Reset,
            errno::ETIMEDOUT => Self::TimedOut,
            errno::ECONNREFUSED => Self::Refused,
            errno::EHOSTUNREACH | errno::ENETUNREACH => Self::Unreachable,
            0 if matches!(old, TcpState::SynSent) && local_port == 0 => Self::NoPort,
            0 | errno::ECONNABORTED => Self::Aborted,
            _ => Self::Other,
        }
    }

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::TimedOut => "timed out",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoPort => "no local port left",
            Self::Aborted => "aborted",
            Self::Other => "other error",
        }
    }
}

/// The errors that TCP leaves in `sk_err`, `include/uapi/asm-generic/errno.h`.
mod libc_errno {
    pub(super) const EPIPE: i32 = 32;
    pub(super) const ENETUNREACH: i32 = 101;
    pub(super) const ECONNABORTED: i32 = 103;
    pub(super) const ECONNRESET: i32 = 104;
    pub(super) const ETIMEDOUT: i32 = 110;
    pub(super) const ECONNREFUSED: i32 = 111;
    pub(super) const EHOSTUNREACH: i32 = 113;
}

impl RecentEnds {
    /// Keeps the end of a connection, and forgets the oldest one if there are too many.
    pub fn add(&mut self, transition: &Transition) {
        if transition.new != TcpState::Close {
            return;
        }
        if self.ends.len() == KEPT {
            self.ends.pop_front();
        }
        self.ends.push_back(End {
            time_ns: transition.time_ns,
            peer: transition.remote.ip().to_canonical(),
            cause: EndCause::of(transition.old, transition.error, transition.local.port()),
        });
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many there are of each cause, the most frequent first.
    #[must_use]
    pub fn by_cause(&self) -> Vec<(EndCause, usize)> {
        most_frequent(self.ends.iter().map(|end| end.cause))
    }

    /// The peers with most of them, the most frequent first.
    #[must_use]
    pub fn top_peers(&self, limit: usize) -> Vec<(IpAddr, usize)> {
        let mut peers = most_frequent(self.ends.iter().map(|end| end.peer));
        peers.truncate(limit);
        peers
    }
}

fn most_frequent<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Vec<(T, usize)> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    // Stable: equal ones stay in the order of their values.
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

#[cfg(test)]
mod tests {
    use tcpstate_common::Family;

    use super::*;

    fn end(peer: &str, error: i32) -> Transition {
        Transition {
            time_ns: 0,
            socket: 1,
            namespace: 1,
            family: Family::Ipv4,
            old: TcpState::Established,
            new: TcpState::Close,
            error,
            local: "127.0.0.1:80".parse().unwrap(),
            remote: format!("{peer}:1000").parse().unwrap(),
            caller: None,
        }
    }

    #[test]
    fn the_cause_follows_from_the_last_transition() {
        use TcpState::{CloseWait, Established, SynSent};
        for (old, error, local_port, cause) in [
            (Established, 104, 80, EndCause::Reset),
            (CloseWait, 32, 80, EndCause::Reset),
            (Established, 110, 80, EndCause::TimedOut),
            (SynSent, 110, 4000, EndCause::TimedOut),
            (SynSent, 111, 4000, EndCause::Refused),
            (SynSent, 113, 4000, EndCause::Unreachable),
            (SynSent, 101, 4000, EndCause::Unreachable),
            (SynSent, 0, 0, EndCause::NoPort),
            (SynSent, 0, 4000, EndCause::Aborted),
            (Established, 0, 0, EndCause::Aborted),
            (Established, 103, 80, EndCause::Aborted),
            (Established, 105, 80, EndCause::Other),
        ] {
            assert_eq!(
                EndCause::of(old, error, local_port),
                cause,
                "{old:?} {error} {local_port}"
            );
        }
    }

    #[test]
    fn only_the_last_1024_are_kept() {
        let mut recent = RecentEnds::default();
        for _ in 0..10 {
            recent.add(&end("10.0.0.1", 104));
        }
        for _ in 0..KEPT {
            recent.add(&end("10.0.0.2", 111));
        }
        assert_eq!(recent.len(), KEPT);
        assert_eq!(recent.by_cause(), [(EndCause::Refused, KEPT)]);
    }

    #[test]
    fn peers_are_ranked_by_how_often_they_occur() {
        let mut recent = RecentEnds::default();
        for peer in ["10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.1"] {
            recent.add(&end(peer, 104));
        }
        let top: Vec<String> = recent
            .top_peers(2)
            .into_iter()
            .map(|(peer, count)| format!("{peer} {count}"))
            .collect();
        assert_eq!(top, ["10.0.0.1 2", "10.0.0.2 1"]);
    }
}
