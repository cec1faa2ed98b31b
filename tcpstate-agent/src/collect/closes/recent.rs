//! The connections that ended abnormally, the last of them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use tcpstate_common::{CloseReason, TcpState};

use super::end_words;
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
    /// Tells the socket from all others that live at the same time.
    pub socket: u64,
    /// How it ended.
    pub reason: CloseReason,
    /// The socket's errno, 0 for none.
    pub error: i32,
}

impl RecentEnds {
    /// Keeps the end of a connection, and forgets the oldest one if there are too many.
    pub fn add(&mut self, transition: &Transition) {
        let (TcpState::Close, Some(reason)) = (transition.new, transition.reason) else {
            return;
        };
        if transition.old == TcpState::Close {
            // No end of another, but what was it indeed, in the record right behind it.
            let last = self.ends.back_mut();
            if let Some(last) = last.filter(|last| last.socket == transition.socket) {
                last.reason = reason;
                return;
            }
        }
        if self.ends.len() == KEPT {
            self.ends.pop_front();
        }
        self.ends.push_back(End {
            time_ns: transition.time_ns,
            peer: transition.remote.ip().to_canonical(),
            socket: transition.socket,
            reason,
            error: transition.error,
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

    /// How many there are of each kind, in words, the most frequent first.
    #[must_use]
    pub fn by_cause(&self) -> Vec<(&'static str, usize)> {
        most_frequent(self.ends.iter().map(|end| end_words(end.reason, end.error)))
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
            reason: Some(CloseReason::ResetReceived),
            local: "127.0.0.1:80".parse().unwrap(),
            remote: format!("{peer}:1000").parse().unwrap(),
            caller: None,
        }
    }

    #[test]
    fn a_correction_changes_the_end_right_before_it_and_is_none_of_its_own() {
        let mut recent = RecentEnds::default();
        let reset = end("10.0.0.1", 104);
        let correction = Transition {
            old: TcpState::Close,
            reason: Some(CloseReason::ResetSent),
            ..reset
        };
        recent.add(&reset);
        recent.add(&correction);
        assert_eq!(
            recent.by_cause(),
            [(end_words(CloseReason::ResetSent, 104), 1)]
        );
        // The end itself was in good order, and is not in the ring.
        recent.add(&Transition {
            socket: 2,
            ..correction
        });
        assert_eq!(recent.len(), 2);
    }

    #[test]
    fn only_the_last_1024_are_kept() {
        let mut recent = RecentEnds::default();
        for _ in 0..10 {
            recent.add(&end("10.0.0.1", 104));
        }
        for _ in 0..KEPT {
            recent.add(&Transition {
                reason: Some(CloseReason::Timeout),
                ..end("10.0.0.2", 110)
            });
        }
        assert_eq!(recent.len(), KEPT);
        assert_eq!(
            recent.by_cause(),
            [(end_words(CloseReason::Timeout, 110), KEPT)]
        );
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
