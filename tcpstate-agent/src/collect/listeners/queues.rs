//! The queues of listening sockets, added up.

use tcpstate_common::ServiceCounts;

use super::{HalfOpenKinds, ListeningSocket, Served};

/// The queues of one or more listening sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSums {
    /// Connections that wait to be accepted.
    pub accept_queue: u64,
    /// How many may wait.
    pub accept_limit: u64,
    /// Those of the socket whose queue is fullest.
    pub worst_queue: u64,
    /// Its limit.
    pub worst_limit: u64,
    /// How many may be half open.
    pub syn_limit: u64,
    /// How many are.
    pub half_open: HalfOpenKinds,
}

impl QueueSums {
    /// Adds a socket, whose half-open connections are divided by kind as the last pass over its
    /// namespace has found them.
    pub(super) fn add(&mut self, socket: &ListeningSocket, served: &Served) {
        let (queue, limit) = (
            u64::from(socket.accept_queue),
            u64::from(socket.accept_limit),
        );
        self.accept_queue += queue;
        self.accept_limit += limit;
        let syn_limit = served.limits.map_or(socket.accept_limit, |limits| {
            limits.limit(socket.accept_limit)
        });
        self.syn_limit += u64::from(syn_limit);
        self.note_worst(queue, limit);
        if socket.half_open > 0 {
            let none = ServiceCounts::default();
            let found = served.services.get(&socket.listen_address());
            let now = u64::from(socket.half_open);
            self.half_open.add(&HalfOpenKinds::divided(
                now,
                found.map_or(&none, |found| found),
            ));
        }
    }

    /// By how full they are, and of empty ones by their limit.
    const fn note_worst(&mut self, queue: u64, limit: u64) {
        let is_fuller = queue * (self.worst_limit + 1) > self.worst_queue * (limit + 1);
        let is_larger = queue == 0 && self.worst_queue == 0 && limit > self.worst_limit;
        if is_fuller || is_larger {
            (self.worst_queue, self.worst_limit) = (queue, limit);
        }
    }

    /// Whether an accept queue has no room left.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.worst_queue > self.worst_limit
    }
}

#[cfg(test)]
mod tests {
    use super::{super::group::tests::socket, *};

    fn sum(queues: &[(u32, u32)]) -> QueueSums {
        let mut sums = QueueSums::default();
        for &(queue, limit) in queues {
            sums.add(&socket(queue, limit, 0), &Served::default());
        }
        sums
    }

    #[test]
    fn the_fullest_is_told_whatever_comes_first() {
        for queues in [
            &[(0, 128), (65, 128), (70, 4096)],
            &[(70, 4096), (65, 128), (0, 128)],
        ] {
            let sums = sum(queues);
            assert_eq!((sums.worst_queue, sums.worst_limit), (65, 128));
            assert_eq!((sums.accept_queue, sums.accept_limit), (135, 4352));
            assert!(!sums.is_full());
        }
        let empty = sum(&[(0, 16), (0, 128)]);
        assert_eq!((empty.worst_queue, empty.worst_limit), (0, 128));
    }

    #[test]
    fn a_queue_is_full_with_one_more_than_its_limit() {
        for (queue, is_full) in [(128, false), (129, true)] {
            assert_eq!(sum(&[(queue, 128)]).is_full(), is_full);
        }
    }
}
