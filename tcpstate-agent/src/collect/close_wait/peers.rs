//! The peers that most sockets of a group go to.

use std::{cmp::Reverse, net::IpAddr};

/// How many peers are followed in each group.
const FOLLOWED: usize = 8;

/// The most frequent peers, in bounded memory ([space-saving]): any peer that has more than an
/// eighth of the sockets is among them.
///
/// [space-saving]: https://www.cs.ucsb.edu/sites/default/files/documents/2005-23.pdf
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(Vec<Peer>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    address: IpAddr,
    /// Sockets counted for it.
    count: u64,
    /// How many of them may be another peer's, whose place it took.
    foreign: u64,
}

impl Peers {
    /// Adds `count` sockets that go to `address`.
    pub fn add(&mut self, address: IpAddr, count: u64) {
        if let Some(peer) = self.0.iter_mut().find(|peer| peer.address == address) {
            peer.count += count;
        } else if self.0.len() < FOLLOWED {
            self.0.push(Peer {
                address,
                count,
                foreign: 0,
            });
        } else if let Some(least) = self.0.iter_mut().min_by_key(|peer| peer.count) {
            *least = Peer {
                address,
                count: least.count + count,
                foreign: least.count,
            };
        }
    }

    /// Adds those of `other`.
    pub fn merge(&mut self, other: &Self) {
        for peer in &other.0 {
            self.add(peer.address, peer.count);
        }
    }

    /// Those that dominate: at most `limit`, most sockets first, each with at least so many.
    #[must_use]
    pub fn top(&self, limit: usize) -> Vec<(IpAddr, u64)> {
        let mut top: Vec<_> = self
            .0
            .iter()
            .map(|peer| (peer.address, peer.count - peer.foreign))
            .filter(|(_, at_least)| *at_least > 0)
            .collect();
        top.sort_by_key(|&(address, at_least)| (Reverse(at_least), address));
        top.truncate(limit);
        top
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn peer(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn few_peers_are_counted_exactly() {
        let mut peers = Peers::default();
        for number in [1, 2, 2, 3, 3, 3] {
            peers.add(peer(number), 1);
        }
        assert_eq!(peers.top(2), [(peer(3), 3), (peer(2), 2)]);
    }

    #[test]
    fn a_dominating_peer_is_found_among_many() {
        let mut peers = Peers::default();
        for number in 0..10_000 {
            peers.add(peer(number), 1);
            if number % 3 == 0 {
                peers.add(peer(1_000_000), 1);
            }
        }
        let (address, at_least) = peers.top(1)[0];
        assert_eq!(address, peer(1_000_000));
        assert!((3_000..=3_334).contains(&at_least), "{at_least}");
        assert!(peers.0.len() <= FOLLOWED);
    }
}
