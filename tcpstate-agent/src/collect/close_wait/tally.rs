//! What is known of a group of sockets in CLOSE_WAIT.

use std::time::Duration;

use super::{Age, Ages, OLDER_THAN_SECONDS, Peers, Queues, Times};
use crate::decode::CloseWaitSocket;

/// Sums over a group of sockets in CLOSE_WAIT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many there are.
    pub sockets: u64,
    /// Of how many only a lower bound of the age is known.
    pub lower_bound: u64,
    /// The oldest; none in an empty group.
    pub oldest: Option<Age>,
    /// Bytes that came from the peers and were not read, without the FINs.
    pub unread_bytes: u64,
    /// How many are at least as old as each of [`OLDER_THAN_SECONDS`].
    pub older_than: [u64; OLDER_THAN_SECONDS.len()],
    /// All ages.
    pub ages: Ages,
    /// Those that are exact.
    pub exact: Ages,
    /// What the process has not read or sent.
    pub queues: Queues,
    /// The peers that most of them go to.
    pub peers: Peers,
}

impl Tally {
    /// Adds one socket.
    pub fn add(&mut self, socket: &CloseWaitSocket, times: &Times) {
        let age = times.age;
        self.sockets += 1;
        self.lower_bound += u64::from(!age.is_exact);
        self.oldest = self.oldest.max(Some(age));
        // The FIN counts as one.
        self.unread_bytes += u64::from(socket.unread.saturating_sub(1));
        for (count, limit) in self.older_than.iter_mut().zip(OLDER_THAN_SECONDS) {
            *count += u64::from(age.time >= Duration::from_secs(limit));
        }
        self.ages.add(age.time);
        if age.is_exact {
            self.exact.add(age.time);
        }
        self.queues.add(socket, times);
        self.peers.add(socket.remote.ip().to_canonical(), 1);
    }

    /// Adds another group.
    pub fn merge(&mut self, other: &Self) {
        self.sockets += other.sockets;
        self.lower_bound += other.lower_bound;
        self.oldest = self.oldest.max(other.oldest);
        self.unread_bytes += other.unread_bytes;
        for (count, other) in self.older_than.iter_mut().zip(other.older_than) {
            *count += other;
        }
        self.ages.merge(&other.ages);
        self.exact.merge(&other.exact);
        self.queues.merge(&other.queues);
        self.peers.merge(&other.peers);
    }

    /// How many come a second, where they do so steadily. Ages that are lower bounds tell only where
    /// there are no others: keepalives make them young again and again.
    #[must_use]
    pub fn steady_rate(&self) -> Option<f64> {
        if self.exact.total() == 0 {
            self.ages.steady_rate()
        } else {
            self.exact.steady_rate()
        }
    }

    /// `sockets` of the group, where it is not known which: the oldest.
    #[must_use]
    pub fn part(&self, sockets: u64) -> Self {
        let mut part = self.clone();
        part.shrink_to(sockets);
        part
    }

    /// Lets the youngest go until `sockets` are left.
    pub fn shrink_to(&mut self, sockets: u64) {
        if sockets >= self.sockets {
            return;
        }
        let unread = u128::from(self.unread_bytes) * u128::from(sockets) / u128::from(self.sockets);
        self.unread_bytes = u64::try_from(unread).unwrap_or(u64::MAX);
        self.lower_bound = self.lower_bound.min(sockets);
        for count in &mut self.older_than {
            *count = (*count).min(sockets);
        }
        self.ages.shrink_to(sockets);
        self.exact.shrink_to(sockets);
        self.queues.shrink_to(sockets, self.sockets);
        self.sockets = sockets;
        if sockets == 0 {
            self.oldest = None;
        }
    }

    /// The `sockets` of this group that are not in `known`, groups within it.
    #[must_use]
    pub fn rest<'a>(&self, known: impl IntoIterator<Item = &'a Self>, sockets: u64) -> Self {
        let mut rest = self.clone();
        let mut oldest_known = None;
        for known in known {
            rest.ages.remove(&known.ages);
            rest.exact.remove(&known.exact);
            rest.queues.remove(&known.queues);
            rest.lower_bound = rest.lower_bound.saturating_sub(known.lower_bound);
            rest.unread_bytes = rest.unread_bytes.saturating_sub(known.unread_bytes);
            for (count, known) in rest.older_than.iter_mut().zip(known.older_than) {
                *count = count.saturating_sub(known);
            }
            rest.sockets = rest.sockets.saturating_sub(known.sockets);
            oldest_known = oldest_known.max(known.oldest);
        }
        // Where a known group has one as old, that is probably the one.
        if oldest_known.is_some_and(|known| Some(known) >= self.oldest) {
            rest.oldest = Some(Age {
                time: rest.ages.oldest_at_least(),
                is_exact: false,
            });
        }
        rest.shrink_to(sockets);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(unread: u32) -> CloseWaitSocket {
        CloseWaitSocket {
            socket: 1,
            namespace: 1,
            since_ns: None,
            last_ack_jiffies: 0,
            last_data_jiffies: None,
            last_sent_jiffies: None,
            unread,
            unsent: 0,
            is_accepted: true,
            local_port: 80,
            remote: "[::ffff:10.0.0.1]:1".parse().unwrap(),
            cgroup: 0,
        }
    }

    fn seconds(seconds: u64, is_exact: bool) -> Age {
        Age {
            time: Duration::from_secs(seconds),
            is_exact,
        }
    }

    fn tally(ages: &[(u64, bool)]) -> Tally {
        let mut tally = Tally::default();
        for &(age, is_exact) in ages {
            tally.add(&socket(11), &Times::of_age(seconds(age, is_exact)));
        }
        tally
    }

    #[test]
    fn a_group_adds_up() {
        let tally = tally(&[(0, true), (10, true), (90_000, false)]);
        assert_eq!(tally.sockets, 3);
        assert_eq!(tally.lower_bound, 1);
        assert_eq!(tally.oldest, Some(seconds(90_000, false)));
        assert_eq!(tally.unread_bytes, 30);
        assert_eq!(tally.older_than, [2, 2, 1, 1, 1, 1]);
        assert_eq!(tally.peers.top(1), [("10.0.0.1".parse().unwrap(), 3)]);
    }

    #[test]
    fn merged_groups_are_the_group_of_all() {
        let mut merged = tally(&[(1, true), (5, false)]);
        merged.merge(&tally(&[(700, true)]));
        assert_eq!(merged, tally(&[(1, true), (5, false), (700, true)]));
    }

    #[test]
    fn the_rest_is_what_is_not_known() {
        let all = tally(&[(5_000, true), (20, false), (2, true)]);
        let rest = all.rest([&tally(&[(20, false), (2, true)])], 1);
        assert_eq!(rest.sockets, 1);
        assert_eq!(rest.lower_bound, 0);
        assert_eq!(rest.oldest, Some(seconds(5_000, true)));
        assert_eq!(rest.unread_bytes, 10);
        assert_eq!(rest.older_than, [1, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn the_rest_is_not_as_old_as_a_known_one() {
        let all = tally(&[(5_000, true), (20, true)]);
        let rest = all.rest([&tally(&[(5_000, true)])], 1);
        let oldest = rest.oldest.unwrap();
        assert!(!oldest.is_exact);
        assert!((10..=20).contains(&oldest.time.as_secs()), "{oldest:?}");
    }

    #[test]
    fn a_part_keeps_the_oldest() {
        let part = tally(&[(1, true), (100, true), (4_000, true)]).part(2);
        assert_eq!(part.sockets, 2);
        assert_eq!(part.oldest, Some(seconds(4_000, true)));
        assert_eq!(part.unread_bytes, 20);
        assert_eq!(part.part(0).oldest, None);
    }
}
