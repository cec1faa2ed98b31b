//! Listening sockets: their queues, and the connections that belong to them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{STATE_SLOTS, TcpState};

/// Listening sockets whose SYN-ACKs that are sent again are counted at once.
pub const MAX_SYNACK_LISTENERS: u32 = 4_096;

/// Words of a [`PortSet`].
pub const PORT_WORDS: usize = 1024;

/// A set of ports, a bit each: those of 0 to 63 are in the first word, lowest first.
pub type PortSet = [u64; PORT_WORDS];

/// Ages of half-open connections that are told apart, in seconds: when the kernel sends its
/// SYN-ACK again for the first, second, … time, by default. After the last of them it gives up.
pub const HALF_OPEN_AGES: [u32; 6] = [1, 3, 7, 15, 31, 63];

/// Numbers of SYN-ACKs sent again that are told apart: at least 1, 2, …
pub const HALF_OPEN_RETRANSMITS: usize = 5;

/// What connections are told apart by when they are counted: the listening socket that they
/// belong to, or the group of such sockets.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
)]
#[repr(C)]
pub struct ListenAddress {
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// The port.
    pub port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u16,
    /// The address as it goes over the wire; IPv4 uses the first four bytes. Zeros: any.
    pub address: [u8; 16],
}

impl ListenAddress {
    /// The same port, and any address.
    #[inline(always)]
    #[must_use]
    pub const fn any(self) -> Self {
        Self {
            address: [0; 16],
            ..self
        }
    }

    /// Whether this is for any address. Without branches, of which the verifier would follow both.
    #[inline(always)]
    #[must_use]
    pub fn is_any(&self) -> bool {
        u128::from_ne_bytes(self.address) == 0
    }
}

/// What the last pass has found at one [`ListenAddress`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct ServiceCounts {
    /// A bit for each hash of a half-open connection's peer: few bits, few peers.
    pub peers: u64,
    /// 1 where a listening socket there defers accepting.
    pub defers: u32,
    /// Connections by state; those half open are in `NewSynRecv`.
    pub by_state: [u32; STATE_SLOTS],
    /// Of those half open: kept until data comes (`TCP_DEFER_ACCEPT`).
    pub deferred: u32,
    /// Of those half open: their third ACK came when the accept queue was full.
    pub held_back: u32,
    /// Of those half open: their SYN-ACK was sent again.
    pub resent: u32,
    /// SYN-ACKs sent again to all of those half open.
    pub retransmits: u32,
    /// Age of the oldest half-open one, milliseconds.
    pub oldest_ms: u32,
}

/// What there is to say of a half-open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpen {
    /// Its third ACK has come, and yet it is half open.
    pub is_acked: bool,
    /// How often its SYN-ACK was sent again.
    pub retransmits: u8,
    /// Since its first SYN-ACK, milliseconds.
    pub age_ms: u32,
    /// Hash of the peer's address.
    pub peer: u32,
}

/// How many peers set so many of 64 bits, most likely: `-64 ln(1 - bits / 64)` (linear counting).
const PEERS_BY_BITS: [u32; 65] = [
    0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 15, 16, 17, 18, 20, 21, 23, 24, 25, 27, 28, 30, 32,
    33, 35, 37, 39, 40, 42, 44, 46, 48, 51, 53, 55, 58, 60, 63, 65, 68, 71, 74, 78, 81, 85, 89, 93,
    97, 102, 107, 113, 119, 126, 133, 142, 151, 163, 177, 196, 222, 266, 270,
];

impl ServiceCounts {
    /// Whether connections belong to it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.by_state.iter().any(|count| *count > 0)
    }

    /// About how many peers have half-open connections; no more than some 250 can be told. With
    /// many peers most bits are set, and the number of those that are not tells how many.
    #[must_use]
    pub fn peers(&self) -> u32 {
        PEERS_BY_BITS[self.peers.count_ones() as usize]
    }

    /// Counts a connection that is not half open.
    #[inline(always)]
    pub fn add(&mut self, state: TcpState) {
        self.by_state[state.slot()] += 1;
    }

    /// Counts one that is.
    #[inline(always)]
    pub fn add_half_open(&mut self, found: HalfOpen) {
        self.by_state[TcpState::NewSynRecv.slot()] += 1;
        let is_acked = u32::from(found.is_acked);
        let defers = u32::from(self.defers != 0);
        self.deferred += is_acked & defers;
        self.held_back += is_acked & (1 - defers);
        // The upper six bits of a product that mixes all of them.
        self.peers |= 1 << (found.peer.wrapping_mul(0x9e37_79b1) >> 26);
        self.resent += u32::from(found.retransmits != 0);
        self.retransmits += u32::from(found.retransmits);
        if found.age_ms > self.oldest_ms {
            self.oldest_ms = found.age_ms;
        }
    }
}

/// Half-open connections of a network namespace by how long they have been so, and by how often
/// their SYN-ACK was sent again.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HalfOpenCounts {
    /// At least as old as each of [`HALF_OPEN_AGES`].
    pub older_than: [u32; HALF_OPEN_AGES.len()],
    /// Sent again at least once, twice, …
    pub retransmitted: [u32; HALF_OPEN_RETRANSMITS],
}

impl HalfOpenCounts {
    /// Counts one.
    #[inline(always)]
    pub fn add(&mut self, found: HalfOpen) {
        for (count, seconds) in self.older_than.iter_mut().zip(HALF_OPEN_AGES) {
            *count += u32::from(found.age_ms >= seconds * 1000);
        }
        for (count, least) in self.retransmitted.iter_mut().zip(1..) {
            *count += u32::from(found.retransmits >= least);
        }
    }

    /// Adds those of another namespace.
    pub fn merge(&mut self, other: &Self) {
        for (count, other) in self.older_than.iter_mut().zip(other.older_than) {
            *count = count.saturating_add(other);
        }
        for (count, other) in self.retransmitted.iter_mut().zip(other.retransmitted) {
            *count = count.saturating_add(other);
        }
    }
}

const _: () = {
    assert!(size_of::<PortSet>() * 8 == 1 << 16);
    assert!(size_of::<ListenAddress>() == 24);
    assert!(size_of::<ServiceCounts>() == 96);
    assert!(size_of::<HalfOpenCounts>() == 44);
};

#[cfg(test)]
mod tests {
    use super::*;

    const WAITING: HalfOpen = HalfOpen {
        is_acked: false,
        retransmits: 0,
        age_ms: 0,
        peer: 0,
    };

    #[test]
    fn a_third_ack_is_deferred_or_held_back_by_what_the_listener_does() {
        let acked = HalfOpen {
            is_acked: true,
            ..WAITING
        };
        for (defers, deferred, held_back) in [(0, 0, 2), (1, 2, 0)] {
            let mut counts = ServiceCounts {
                defers,
                ..ServiceCounts::default()
            };
            counts.add_half_open(WAITING);
            counts.add_half_open(acked);
            counts.add_half_open(acked);
            assert_eq!(counts.by_state[TcpState::NewSynRecv.slot()], 3);
            assert_eq!((counts.deferred, counts.held_back), (deferred, held_back));
        }
    }

    #[test]
    fn ages_and_retransmits_are_cumulative() {
        let (mut all, mut service) = (HalfOpenCounts::default(), ServiceCounts::default());
        for (age_ms, retransmits) in [(0, 0), (1_000, 1), (6_999, 2), (70_000, 200)] {
            let found = HalfOpen {
                retransmits,
                age_ms,
                ..WAITING
            };
            all.add(found);
            service.add_half_open(found);
        }
        assert_eq!(all.older_than, [3, 2, 1, 1, 1, 1]);
        assert_eq!(all.retransmitted, [3, 2, 1, 1, 1]);
        assert_eq!((service.resent, service.retransmits), (3, 203));
        assert_eq!(service.oldest_ms, 70_000);
        all.merge(&all.clone());
        assert_eq!(all.older_than, [6, 4, 2, 2, 2, 2]);
    }

    #[test]
    fn few_peers_have_few_bits_and_many_have_many() {
        let bits = |peers: u32| {
            let mut service = ServiceCounts::default();
            for number in 0..1_000 {
                let peer = u32::from_be_bytes([10, 0, 0, 1]) + number % peers;
                service.add_half_open(HalfOpen { peer, ..WAITING });
            }
            service.peers.count_ones()
        };
        assert_eq!(bits(1), 1);
        assert!(bits(3) <= 3);
        assert!(bits(1_000) > 50, "{}", bits(1_000));
    }

    #[test]
    fn any_address_is_that_of_zeros() {
        let one = ListenAddress {
            address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            port: 80,
            ..ListenAddress::default()
        };
        assert!(!one.is_any());
        assert!(one.any().is_any());
        assert_eq!(one.any().port, 80);
    }
}
