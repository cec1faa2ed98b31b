//! What the kernel counts for each listening socket, as what has come since the last look.

use std::net::SocketAddr;

use super::ListeningSocket;

/// What has come at one listening socket since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Increment {
    /// Segments and connections dropped.
    pub drops: u64,
    /// SYN-ACKs sent again.
    pub synack_retransmits: u64,
}

impl Increment {
    /// Adds another one.
    pub const fn add(&mut self, other: Self) {
        self.drops += other.drops;
        self.synack_retransmits += other.synack_retransmits;
    }
}

/// Remembers what each socket's counters were.
#[derive(Debug, Default)]
pub struct Increments {
    /// By rising socket.
    last: Vec<Last>,
    /// There was a look before: a socket that was not met then has begun to listen since.
    has_looked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    socket: u64,
    namespace: u32,
    address: SocketAddr,
    drops: u32,
    synack_retransmits: u64,
}

impl Increments {
    /// What has come since the last look at each of `sockets`, which are all that there are, by
    /// rising [`ListeningSocket::socket`]. With each comes whether its owner is known: what comes
    /// at one before is kept for the look at which it is. What there was at the first look of all does
    /// not count; a socket that comes later has begun to listen meanwhile, and all of it counts.
    pub fn look<'a>(
        &mut self,
        sockets: impl IntoIterator<Item = (&'a ListeningSocket, bool)>,
    ) -> Vec<Increment> {
        let before = std::mem::take(&mut self.last);
        let mut increments = Vec::with_capacity(before.len());
        self.last.reserve(before.len());
        let mut before = before.into_iter().peekable();
        for (socket, is_known) in sockets {
            while before.next_if(|last| last.socket < socket.socket).is_some() {}
            let last = before
                .next_if(|last| last.socket == socket.socket)
                .filter(|last| last.is_of(socket))
                .unwrap_or_else(|| Last::before(socket, self.has_looked));
            if is_known {
                increments.push(last.until(socket));
                self.last.push(Last::at(socket));
            } else {
                increments.push(Increment::default());
                self.last.push(last);
            }
        }
        self.has_looked = true;
        increments
    }
}

impl Last {
    const fn at(socket: &ListeningSocket) -> Self {
        Self {
            socket: socket.socket,
            namespace: socket.namespace,
            address: socket.address,
            drops: socket.drops,
            synack_retransmits: socket.synack_retransmits,
        }
    }

    /// What one is counted from that was not looked at before.
    const fn before(socket: &ListeningSocket, is_new: bool) -> Self {
        Self {
            drops: if is_new { 0 } else { socket.drops },
            synack_retransmits: 0,
            ..Self::at(socket)
        }
    }

    /// Whether it is the same socket, and not another at the same place in memory. One that listens
    /// where the other did is told by counters that have gone back.
    fn is_of(&self, socket: &ListeningSocket) -> bool {
        self.namespace == socket.namespace && self.address == socket.address
    }

    fn until(&self, now: &ListeningSocket) -> Increment {
        let drops = now.drops.wrapping_sub(self.drops);
        Increment {
            // More than half of all numbers: it has gone back, so it is another socket.
            drops: u64::from(if drops > u32::MAX / 2 {
                now.drops
            } else {
                drops
            }),
            // The kernel gives the place of one that has ended to another, whose counts begin
            // anew.
            synack_retransmits: now
                .synack_retransmits
                .checked_sub(self.synack_retransmits)
                .unwrap_or(now.synack_retransmits),
        }
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_common::Family;

    use super::*;

    fn socket(place: u64, port: u16, drops: u32, synack_retransmits: u64) -> ListeningSocket {
        ListeningSocket {
            socket: place,
            namespace: 1,
            family: Family::Ipv4,
            address: SocketAddr::from(([0, 0, 0, 0], port)),
            is_any_port: false,
            accept_queue: 0,
            accept_limit: 0,
            half_open: 0,
            drops,
            synack_retransmits,
        }
    }

    /// After a look that has met nothing.
    fn looked() -> Increments {
        let mut increments = Increments::default();
        increments.look([]);
        increments
    }

    fn look_at(increments: &mut Increments, socket: ListeningSocket, is_known: bool) -> (u64, u64) {
        let increment = increments.look([(&socket, is_known)])[0];
        (increment.drops, increment.synack_retransmits)
    }

    fn look(increments: &mut Increments, socket: ListeningSocket) -> (u64, u64) {
        look_at(increments, socket, true)
    }

    #[test]
    fn of_those_at_the_first_look_counts_what_comes_later() {
        let mut increments = Increments::default();
        assert_eq!(look(&mut increments, socket(1, 80, 100, 3)), (0, 3));
        assert_eq!(look(&mut increments, socket(1, 80, 107, 4)), (7, 1));
        assert_eq!(look(&mut increments, socket(1, 80, 107, 4)), (0, 0));
    }

    #[test]
    fn of_one_that_comes_later_everything_counts() {
        let mut increments = looked();
        assert_eq!(look(&mut increments, socket(1, 80, 100, 3)), (100, 3));
    }

    #[test]
    fn what_comes_before_the_owner_is_known_counts_once_when_it_is() {
        let mut increments = looked();
        let mut at = |drops, synacks, is_known| {
            look_at(&mut increments, socket(1, 80, drops, synacks), is_known)
        };
        assert_eq!(at(25, 2, false), (0, 0));
        assert_eq!(at(26, 2, false), (0, 0));
        assert_eq!(at(30, 3, true), (30, 3));
        // A walk may miss one that was known.
        assert_eq!(at(31, 3, false), (0, 0));
        assert_eq!(at(32, 3, true), (2, 0));
    }

    #[test]
    fn a_kernel_counter_may_wrap_around_and_a_place_be_given_to_another_socket() {
        let mut increments = looked();
        look(&mut increments, socket(1, 80, u32::MAX, 9));
        assert_eq!(look(&mut increments, socket(1, 80, 2, 9)), (3, 0));
        look(&mut increments, socket(1, 80, 5_000, 9));
        // Of the same address.
        assert_eq!(look(&mut increments, socket(1, 80, 4, 1)), (4, 1));
        // Of another, with more than the one before.
        assert_eq!(look(&mut increments, socket(1, 81, 9, 0)), (9, 0));
    }

    #[test]
    fn one_that_was_gone_begins_anew_and_the_others_go_on() {
        let mut increments = looked();
        let at = |place, drops| socket(place, 80, drops, 0);
        let mut look = |sockets: &[ListeningSocket]| {
            let of_each = increments.look(sockets.iter().map(|socket| (socket, true)));
            let drops = of_each.iter().map(|increment| increment.drops);
            drops.collect::<Vec<_>>()
        };
        assert_eq!(look(&[at(1, 5), at(2, 6), at(4, 7)]), [5, 6, 7]);
        assert_eq!(look(&[at(2, 7), at(3, 1), at(4, 9)]), [1, 1, 2]);
        assert_eq!(look(&[at(1, 6), at(4, 9)]), [6, 0]);
    }
}
