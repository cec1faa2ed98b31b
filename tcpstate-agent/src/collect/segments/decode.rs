//! One record of the ring of segments.

use std::net::SocketAddr;

use tcpstate_common::{Direction, Family, SegmentRecord};
use zerocopy::FromBytes;

use crate::decode::{DecodeError, address, family};

/// A segment that tells something of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Index of the interface that it passed.
    pub device: u32,
    /// Which way.
    pub direction: Direction,
    /// What its IP header is of.
    pub family: Family,
    /// Its sender.
    pub source: SocketAddr,
    /// Its receiver.
    pub destination: SocketAddr,
    /// Byte 13 of the TCP header.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number, which means something only where the flags have ACK.
    pub acknowledgment: u32,
}

impl Segment {
    /// Decodes one record as it lies in the ring buffer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record =
            SegmentRecord::read_from_bytes(bytes).map_err(|_| DecodeError::Length(bytes.len()))?;
        let SegmentRecord {
            time_ns,
            device,
            sequence,
            acknowledgment,
            source_port,
            destination_port,
            family,
            direction,
            flags,
            padding: _,
            source_address,
            destination_address,
        } = record;
        let family = self::family(family)?;
        Ok(Self {
            time_ns,
            device,
            direction: Direction::from_slot(direction).ok_or(DecodeError::Direction(direction))?,
            family,
            source: SocketAddr::new(address(family, source_address), source_port),
            destination: SocketAddr::new(address(family, destination_address), destination_port),
            flags,
            sequence,
            acknowledgment,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    fn record() -> SegmentRecord {
        SegmentRecord {
            time_ns: 1,
            device: 2,
            sequence: 3,
            acknowledgment: 4,
            source_port: 40_000,
            destination_port: 80,
            family: 2,
            direction: 1,
            flags: 0x12,
            padding: [0; 5],
            source_address: [10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            destination_address: [10, 1, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    #[test]
    fn a_record_becomes_the_segment_it_describes() {
        let segment = Segment::decode(record().as_bytes()).unwrap();
        assert_eq!(segment.direction, Direction::Egress);
        assert_eq!(segment.source.to_string(), "10.1.2.3:40000");
        assert_eq!(segment.destination.to_string(), "10.1.2.4:80");
        assert_eq!((segment.sequence, segment.acknowledgment), (3, 4));
    }

    #[test]
    fn every_number_that_is_no_direction_is_refused() {
        for direction in 0..=u8::MAX {
            let record = SegmentRecord {
                direction,
                ..record()
            };
            let decoded = Segment::decode(record.as_bytes());
            assert_eq!(decoded.is_ok(), direction < 2, "direction {direction}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..130)) {
            if let Ok(segment) = Segment::decode(&bytes) {
                prop_assert_eq!(bytes.len(), 64);
                prop_assert_eq!(segment.source.is_ipv4(), segment.family == Family::Ipv4);
            }
        }
    }
}
