//! Outgoing connections by where they go: what the kernel side adds up in a pass.
//!
//! A table without hash operations of the kernel, and without anything to clear: a word of the
//! index names the pass that it is from. Entries are handed out in a row, so that the agent reads
//! no more of them than there are.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Destinations of one network namespace that can be told apart.
pub const MAX_DESTINATIONS: u32 = 1 << ENTRY_BITS;
/// Destinations that lie together, for the agent to read at once.
pub const DESTINATIONS_TOGETHER: usize = 64;
/// So many sockets are kept where another destination needs room; fewer are far from taking all
/// ports.
pub const KEPT_DESTINATION: u32 = 16;
/// Lines of the index.
pub const INDEX_LINES: u32 = 1 << 13;
/// Words in each, a cache line of them.
pub const INDEX_WORDS: usize = 8;
/// Words of a [`PortSet`].
pub const PORT_WORDS: usize = 1024;

const ENTRY_BITS: u32 = 14;
const PASS_SHIFT: u32 = 32;
/// The bits of a hash between the pass and the entry.
const TAG_BITS: u32 = PASS_SHIFT - ENTRY_BITS;

/// A set of ports, a bit each: those of 0 to 63 are in the first word, lowest first.
pub type PortSet = [u64; PORT_WORDS];

/// From where to where. Addresses are 16 bytes as they go over the wire, those of IPv4 as IPv6
/// writes them (`::ffff:a.b.c.d`): so a dual-stack socket counts with those whose ports it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Local address.
    pub local: [u64; 2],
    /// Remote address.
    pub remote: [u64; 2],
    /// Remote port.
    pub remote_port: u32,
}

/// What a pass has found to go one way.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Destination {
    /// Local address.
    pub local: [u64; 2],
    /// Remote address.
    pub remote: [u64; 2],
    /// Remote port.
    pub remote_port: u32,
    /// Sockets, in any state, whose local port the kernel has chosen at `connect()`.
    pub held: u32,
    /// Sockets in TIME_WAIT, whoever chose their port.
    pub time_wait: u32,
    /// Those of both kinds that use timestamps: `tcp_tw_reuse` may take them over.
    pub reusable: u32,
}

/// [`Destination`]s that lie together.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Destinations {
    /// In the order in which they were found.
    pub entries: [Destination; DESTINATIONS_TOGETHER],
}

const _: () = {
    assert!(size_of::<Destination>() == 48);
    assert!(size_of::<Destinations>() == 3072);
    assert!(size_of::<PortSet>() * 8 == 1 << 16);
};

impl Way {
    /// An IPv4 address, given as its four bytes lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn ipv4(address: u32) -> [u64; 2] {
        let [a, b, c, d] = address.to_ne_bytes();
        [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
    }

    /// Where to look for it.
    #[inline(always)]
    #[must_use]
    pub const fn place(&self) -> Place {
        // Multiplicative hashing: the upper bits of a product depend on all bits below.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut hash = self.remote_port as u64;
        let [a, b] = self.local;
        let [c, d] = self.remote;
        hash = fold((hash ^ a).wrapping_mul(ODD));
        hash = fold((hash ^ b).wrapping_mul(ODD));
        hash = fold((hash ^ c).wrapping_mul(ODD));
        hash = fold((hash ^ d).wrapping_mul(ODD));
        let hash = hash.wrapping_mul(ODD);
        Place {
            line: (hash >> 51) as u32,
            tag: (hash >> (51 - TAG_BITS)) & ((1 << TAG_BITS) - 1),
        }
    }
}

#[inline(always)]
const fn fold(hash: u64) -> u64 {
    hash ^ (hash >> 32)
}

/// Where a [`Way`] is in the index, and how its word begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u32,
    tag: u64,
}

impl Place {
    /// The word for an entry of a pass.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, pass: u32, entry: u32) -> u64 {
        (pass as u64) << PASS_SHIFT | self.tag << ENTRY_BITS | entry as u64
    }

    /// The entry that `word` leads to, whichever way that goes by now.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "so few bits are left")]
    pub const fn number(word: u64) -> u32 {
        (word & (MAX_DESTINATIONS as u64 - 1)) as u32
    }

    /// Whether `word` is from another pass: free in this one, as are all behind it in its line.
    #[inline(always)]
    #[must_use]
    pub const fn is_free(word: u64, pass: u32) -> bool {
        word >> PASS_SHIFT != pass as u64
    }

    /// The entry that `word` of this pass leads to, if it may be the one that is looked for.
    #[inline(always)]
    #[must_use]
    pub const fn entry(self, word: u64, pass: u32) -> Option<u32> {
        if word >> ENTRY_BITS == self.word(pass, 0) >> ENTRY_BITS {
            Some(Self::number(word))
        } else {
            None
        }
    }
}

impl Destination {
    /// Nothing found yet.
    #[inline(always)]
    #[must_use]
    pub const fn new(way: Way) -> Self {
        Self {
            local: way.local,
            remote: way.remote,
            remote_port: way.remote_port,
            held: 0,
            time_wait: 0,
            reusable: 0,
        }
    }

    /// Whether it is this way. One branch: the verifier follows both sides of each.
    #[inline(always)]
    #[must_use]
    pub const fn goes(&self, way: &Way) -> bool {
        let differs = (self.local[0] ^ way.local[0])
            | (self.local[1] ^ way.local[1])
            | (self.remote[0] ^ way.remote[0])
            | (self.remote[1] ^ way.remote[1])
            | (self.remote_port ^ way.remote_port) as u64;
        differs == 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{collections::BTreeMap, vec::Vec};

    use super::*;

    fn way(number: u32) -> Way {
        Way {
            local: Way::ipv4(u32::from_ne_bytes([10, 0, 0, 1])),
            remote: Way::ipv4((0x0a00_0000 + (number >> 4)).to_be()),
            remote_port: 8000 + (number & 15),
        }
    }

    #[test]
    fn a_word_leads_to_its_entry_in_its_pass_only() {
        let place = way(7).place();
        let word = place.word(3, 12_345);
        assert_eq!(place.entry(word, 3), Some(12_345));
        assert_eq!(place.entry(word, 4), None);
        assert!(!Place::is_free(word, 3));
        assert!(Place::is_free(word, 4) && Place::is_free(0, 1));
        assert_eq!(way(8).place().entry(word, 3), None);
        let last = place.word(u32::MAX >> 4, MAX_DESTINATIONS - 1);
        assert_eq!(place.entry(last, u32::MAX >> 4), Some(MAX_DESTINATIONS - 1));
    }

    #[test]
    fn destinations_that_are_alike_spread_over_the_index() {
        // As many as fit, neighbours all of them: lines overflow as seldom as by chance.
        let mut lines = BTreeMap::<u32, usize>::new();
        for number in 0..MAX_DESTINATIONS {
            let place = way(number).place();
            assert!(place.line < INDEX_LINES);
            *lines.entry(place.line).or_default() += 1;
        }
        let over: usize = lines
            .values()
            .map(|count| count.saturating_sub(INDEX_WORDS))
            .sum();
        // By chance some 3 of 16,384.
        assert!(over <= 16, "{over} do not fit");
    }

    #[test]
    fn what_differs_in_anything_is_another_way() {
        let one = way(1);
        let mut others = Vec::new();
        for (word, bit) in (0..2).flat_map(|word| (0..64).map(move |bit| (word, bit))) {
            let (mut local, mut remote) = (one, one);
            local.local[word] ^= 1 << bit;
            remote.remote[word] ^= 1 << bit;
            others.extend([local, remote]);
        }
        others.push(Way {
            remote_port: one.remote_port + 1,
            ..one
        });
        let entry = Destination::new(one);
        assert!(entry.goes(&one));
        assert!(others.iter().all(|other| !entry.goes(other)));
    }

    #[test]
    fn an_ipv4_address_is_written_as_ipv6_writes_it() {
        let [upper, lower] = Way::ipv4(u32::from_ne_bytes([10, 1, 2, 3]));
        assert_eq!(upper, 0);
        assert_eq!(lower.to_ne_bytes(), [0, 0, 0xff, 0xff, 10, 1, 2, 3]);
    }
}
