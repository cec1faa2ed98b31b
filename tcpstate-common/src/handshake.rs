//! How long handshakes took, as the kernel has measured it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Durations;

/// Upper bounds of the buckets, in nanoseconds, each inclusive: from a connection within the host
/// to one around the world that waits.
pub const HANDSHAKE_BOUNDS_NS: [u64; 11] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
];

/// Handshakes of one side of a connection, on one CPU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct RoleHandshakes {
    /// Those that were measured: between the first segment of this side and the answer to it.
    pub durations: Durations,
    /// Those in which a segment was sent again: what was measured then is no round trip.
    pub retransmitted: u64,
    /// Those that the kernel has not measured: SYN cookies, and those whose last segment came with
    /// data, as with `TCP_DEFER_ACCEPT`: it is not known how long the client has waited for that.
    pub unmeasured: u64,
}

/// Handshakes, on one CPU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Handshakes {
    /// Of clients: SYN to SYN-ACK.
    pub client: RoleHandshakes,
    /// Of servers: SYN-ACK to the third ACK.
    pub server: RoleHandshakes,
}

impl RoleHandshakes {
    /// Counts one, of which the kernel says that the round trip took `microseconds` (0: not
    /// measured) and that `retransmits` segments were sent again.
    #[inline(always)]
    pub fn observe(&mut self, microseconds: u32, retransmits: u32) {
        if retransmits != 0 {
            self.retransmitted += 1;
        } else if microseconds == 0 {
            self.unmeasured += 1;
        } else {
            let nanoseconds = u64::from(microseconds) * 1000;
            self.durations.observe(nanoseconds, &HANDSHAKE_BOUNDS_NS);
        }
    }

    fn add(&mut self, other: &Self) {
        self.durations.add(&other.durations);
        self.retransmitted = self.retransmitted.wrapping_add(other.retransmitted);
        self.unmeasured = self.unmeasured.wrapping_add(other.unmeasured);
    }
}

impl Handshakes {
    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        self.client.add(&other.client);
        self.server.add(&other.server);
    }
}

const _: () = assert!(size_of::<Handshakes>() == 336);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_measured_is_a_duration() {
        let mut server = RoleHandshakes::default();
        server.observe(49, 0);
        server.observe(51, 0);
        server.observe(200_000, 1);
        server.observe(0, 0);
        assert_eq!(server.durations.count[..3], [1, 1, 0]);
        assert_eq!(server.durations.sum_ns, 100_000);
        assert_eq!((server.retransmitted, server.unmeasured), (1, 1));
        let mut all = Handshakes::default();
        for _ in 0..2 {
            all.add(&Handshakes {
                server,
                ..Handshakes::default()
            });
        }
        assert_eq!(all.server.durations.observed(), 4);
        assert_eq!(all.server.retransmitted, 2);
    }
}
