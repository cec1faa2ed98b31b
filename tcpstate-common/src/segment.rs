//! What the programs on network interfaces count and record.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The flags of a TCP header, as they lie in its byte 13.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Hand the data over at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// Congestion was experienced.
    pub const ECE: u8 = 0x40;
    /// The congestion window was reduced.
    pub const CWR: u8 = 0x80;
}

/// Which way a packet passed an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the host.
    Ingress,
    /// From the host.
    Egress,
}

impl Direction {
    /// Both, in the order of their slots.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The direction with this slot, or `None` for any other number.
    #[must_use]
    pub const fn from_slot(slot: u8) -> Option<Self> {
        match slot {
            0 => Some(Self::Ingress),
            1 => Some(Self::Egress),
            _ => None,
        }
    }

    /// Where it stands in a table by direction.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> usize {
        self as usize
    }

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Why a packet's TCP flags are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skipped {
    /// It is not TCP over IPv4 or IPv6, as far as the outermost headers say.
    NonTcp,
    /// A fragment other than the first has no TCP header.
    Fragment,
    /// It is cut off, makes no sense, or has more headers before TCP's than are looked through.
    Unparsed,
}

impl Skipped {
    /// All, in the order of their slots.
    pub const ALL: [Self; 3] = [Self::NonTcp, Self::Fragment, Self::Unparsed];

    /// Where it stands in a table by reason.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> usize {
        self as usize
    }

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NonTcp => "non_tcp",
            Self::Fragment => "fragment",
            Self::Unparsed => "unparsed",
        }
    }
}

/// VLAN tags that are looked through.
pub const MAX_VLAN_TAGS: usize = 2;
/// Extension headers of IPv6 that are looked through.
pub const MAX_EXTENSION_HEADERS: usize = 6;

/// The packets of one interface in one direction, as one CPU saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SegmentCounts {
    /// Segments by the flags in their TCP header.
    pub by_flags: [u64; 256],
    /// Other packets, by [`Skipped::slot`].
    pub skipped: [u64; 3],
}

const _: () = assert!(size_of::<SegmentCounts>() == 259 * 8);

impl SegmentCounts {
    /// Counts of nothing.
    pub const ZERO: Self = Self {
        by_flags: [0; 256],
        skipped: [0; 3],
    };

    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        let Self { by_flags, skipped } = self;
        for (count, other) in by_flags.iter_mut().zip(&other.by_flags) {
            *count = count.wrapping_add(*other);
        }
        for (count, other) in skipped.iter_mut().zip(&other.skipped) {
            *count = count.wrapping_add(*other);
        }
    }
}

/// One element of [`segment_map::DEVICES`](crate::segment_map::DEVICES): an interface that the
/// agent wants to be counted.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct DeviceEntry {
    /// Its index in the kernel, 0 for none.
    pub index: u32,
    /// Which of the counters are its own: two elements, by direction, from twice this number on.
    pub slot: u32,
    /// 1 where its packets begin with the IP header, 0 where they begin with Ethernet's.
    pub is_raw_ip: u32,
    /// Always 0.
    pub padding: u32,
}

impl DeviceEntry {
    /// Elements of the table.
    pub const TABLE: u32 = 1024;
    /// At how many places an interface can be.
    pub const PLACES: u32 = 4;

    /// The place of an interface in the table, of [`DeviceEntry::PLACES`] many. The kernel counts
    /// interfaces up, so the first is nearly always free.
    #[inline(always)]
    #[must_use]
    pub const fn place(index: u32, number: u32) -> u32 {
        index.wrapping_add(number) % Self::TABLE
    }
}

/// A segment that tells something of its connection, as it lies in the ring buffer.
///
/// Numbers are in host byte order. The agent checks every field before it believes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SegmentRecord {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Index of the interface.
    pub device: u32,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number; means something only where the flags have ACK.
    pub acknowledgment: u32,
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// [`Direction::slot`].
    pub direction: u8,
    /// Byte 13 of the TCP header.
    pub flags: u8,
    /// Always 0.
    pub padding: [u8; 5],
    /// Address of the sender; IPv4 uses the first four bytes, the others are 0.
    pub source_address: [u8; 16],
    /// Address of the receiver, likewise.
    pub destination_address: [u8; 16],
}

const _: () = assert!(size_of::<SegmentRecord>() == 64);

/// Whether a segment with these flags is worth a record: it opens, ends or resets a connection,
/// has urgent data, or has no ACK, which only a SYN or a RST can do without.
#[inline(always)]
#[must_use]
pub const fn is_telling(flags: u8) -> bool {
    flags & (flag::SYN | flag::FIN | flag::RST | flag::URG) != 0 || flags & flag::ACK == 0
}

/// The fate of the telling segments that one CPU saw.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SegmentEvents {
    /// Records that were due.
    pub emitted: u64,
    /// Of those, the ones that found the ring full.
    pub lost: u64,
    /// Telling segments without a record, because there were too many of them at once.
    pub withheld: u64,
    /// When the present window of [`SegmentEvents::WINDOW_NS`] began.
    pub window_ns: u64,
    /// Records in it.
    pub in_window: u64,
}

impl SegmentEvents {
    /// For how long a number of records is enough.
    pub const WINDOW_NS: u64 = 100_000_000;

    /// Whether one more record is within `limit` a window; counts it.
    #[inline(always)]
    pub const fn admit(&mut self, now_ns: u64, limit: u32) -> bool {
        if now_ns.wrapping_sub(self.window_ns) >= Self::WINDOW_NS {
            self.window_ns = now_ns;
            self.in_window = 0;
        }
        if self.in_window >= limit as u64 {
            self.withheld += 1;
            return false;
        }
        self.in_window += 1;
        true
    }

    /// Adds the counts of another CPU.
    pub const fn add(&mut self, other: &Self) {
        self.emitted = self.emitted.wrapping_add(other.emitted);
        self.lost = self.lost.wrapping_add(other.lost);
        self.withheld = self.withheld.wrapping_add(other.withheld);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_ends_or_makes_no_sense_is_telling_and_data_is_not() {
        for flags in 0..=u8::MAX {
            let is_ordinary = flags & !(flag::PSH | flag::ECE | flag::CWR) == flag::ACK;
            assert_eq!(is_telling(flags), !is_ordinary, "{flags:#04x}");
        }
    }

    #[test]
    fn no_more_than_the_limit_is_admitted_in_a_window_and_the_rest_is_counted() {
        let mut events = SegmentEvents::default();
        let start = 1_000_000_000;
        let admitted = (0..50).filter(|i| events.admit(start + i, 20)).count();
        assert_eq!((admitted, events.withheld), (20, 30));
        assert!(events.admit(start + SegmentEvents::WINDOW_NS, 20));
        assert!(!events.admit(start + SegmentEvents::WINDOW_NS, 1));
    }

    #[test]
    fn an_interface_has_places_of_its_own_within_the_table() {
        for index in [0, 1, 1023, 1024, u32::MAX] {
            let places: [u32; 4] = [0, 1, 2, 3].map(|number| DeviceEntry::place(index, number));
            assert!(places.iter().all(|place| *place < DeviceEntry::TABLE));
            assert!(places.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
