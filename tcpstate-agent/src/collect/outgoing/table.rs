//! Outgoing connections by where they go, added up as a pass meets them.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

use rustc_hash::FxHashMap;

/// Destinations of one network namespace that are told apart.
pub const MAX_DESTINATIONS: usize = 16_384;
/// So many sockets are kept where another destination needs room; fewer are far from taking all
/// ports.
const KEPT: u32 = 16;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// Local address. One that IPv6 writes an IPv4 address as is that: so a dual-stack socket
    /// counts with those whose ports it takes.
    pub local: IpAddr,
    /// Remote address and port, likewise.
    pub remote: SocketAddr,
}

/// A million sockets are looked up by it in a pass, so by whole words and not byte for byte.
impl Hash for Destination {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bits = |address| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        state.write_u128(bits(self.local));
        state.write_u128(bits(self.remote.ip()));
        state.write_u16(self.remote.port());
    }
}

/// What was found to go one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationCounts {
    /// Sockets, in any state, whose local port the kernel has chosen at `connect()`.
    pub held: u32,
    /// Sockets in TIME_WAIT, whoever chose their port.
    pub time_wait: u32,
    /// Those of both kinds that use timestamps: `tcp_tw_reuse` may take them over.
    pub reusable: u32,
}

/// The destinations of one network namespace.
///
/// Where it is full, the smallest make room, and what they had is counted as unplaced: one that
/// matters can be the last to come, since the kernel's table has those of one destination close to
/// each other from Linux 6.15 on.
#[derive(Debug, Default)]
pub struct DestinationTable {
    found: FxHashMap<Destination, DestinationCounts>,
    /// Sockets that hold a port and whose destination found no place.
    pub unplaced_held: u64,
    /// Sockets in TIME_WAIT whose destination found no place.
    pub unplaced_time_wait: u64,
}

impl DestinationTable {
    /// Adds a socket, which holds a port that `connect()` has chosen, is in TIME_WAIT, or both.
    pub fn add(
        &mut self,
        destination: Destination,
        holds: bool,
        time_wait: bool,
        timestamps: bool,
    ) {
        if self.found.len() >= MAX_DESTINATIONS && !self.found.contains_key(&destination) {
            self.make_room();
        }
        if self.found.len() >= MAX_DESTINATIONS && !self.found.contains_key(&destination) {
            self.unplaced_held += u64::from(holds);
            self.unplaced_time_wait += u64::from(time_wait);
            return;
        }
        let counts = self.found.entry(destination).or_default();
        counts.held += u32::from(holds);
        counts.time_wait += u32::from(time_wait);
        counts.reusable += u32::from(holds && time_wait && timestamps);
    }

    fn make_room(&mut self) {
        let (mut held, mut time_wait) = (0, 0);
        self.found.retain(|_, counts| {
            let stays = counts.held.max(counts.time_wait) >= KEPT;
            if !stays {
                held += u64::from(counts.held);
                time_wait += u64::from(counts.time_wait);
            }
            stays
        });
        self.unplaced_held += held;
        self.unplaced_time_wait += time_wait;
    }

    /// What was found.
    pub fn into_found(self) -> impl Iterator<Item = (Destination, DestinationCounts)> {
        self.found.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(number: u32) -> Destination {
        let [_, b, c, d] = number.to_be_bytes();
        Destination {
            local: IpAddr::from([10, 0, 0, 1]),
            remote: SocketAddr::from(([10, b, c, d], 80)),
        }
    }

    #[test]
    fn what_holds_a_port_and_what_is_in_time_wait_are_told_apart() {
        let mut table = DestinationTable::default();
        table.add(destination(1), true, false, false);
        table.add(destination(1), true, true, true);
        table.add(destination(1), false, true, true);
        let found: Vec<_> = table.into_found().collect();
        let expected = DestinationCounts {
            held: 2,
            time_wait: 2,
            reusable: 1,
        };
        assert_eq!(found, [(destination(1), expected)]);
    }

    #[test]
    fn one_that_comes_last_has_room_and_nothing_is_lost() {
        let mut table = DestinationTable::default();
        let all = 3 * u32::try_from(MAX_DESTINATIONS).unwrap();
        for number in 0..all {
            table.add(destination(number), true, true, false);
        }
        for _ in 0..1_000 {
            table.add(destination(all), true, true, false);
        }
        let (held, time_wait) = (table.unplaced_held, table.unplaced_time_wait);
        let found: FxHashMap<_, _> = table.into_found().collect();
        assert!(found.len() <= MAX_DESTINATIONS);
        assert_eq!(found[&destination(all)].held, 1_000);
        let kept: u64 = found.values().map(|counts| u64::from(counts.held)).sum();
        assert_eq!(kept + held, u64::from(all) + 1_000);
        assert_eq!(held, time_wait);
    }

    #[test]
    fn where_all_are_large_the_next_finds_no_place() {
        let mut table = DestinationTable::default();
        let most = u32::try_from(MAX_DESTINATIONS).unwrap();
        for number in 0..most {
            for _ in 0..KEPT {
                table.add(destination(number), true, false, false);
            }
        }
        table.add(destination(most), true, false, false);
        assert_eq!(table.unplaced_held, 1);
        assert_eq!(table.into_found().count(), MAX_DESTINATIONS);
    }
}
