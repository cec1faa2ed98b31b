//! The parser that runs in the kernel, on any packet, beside the definition of what it has to find.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::collect::segments::packet::{Framing, tcp_flags};

use tcpstate_common::Family;

use self::packet::Packet as _;

/// The very source that the programs are made of.
#[path = "../../tcpstate-ebpf/src/segments/parse.rs"]
mod parse;

/// In the kernel a packet lies in memory of the kernel, here in a slice.
mod packet {
    pub(crate) trait Packet {
        fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    }

    impl Packet for &[u8] {
        fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
            self.get(at..)?.first_chunk().copied()
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    for (framing, is_raw_ip) in [(Framing::Ethernet, false), (Framing::RawIp, true)] {
        let found = parse::parse(&bytes, is_raw_ip);
        if let Ok(segment) = &found {
            assert!(segment.network < segment.transport);
            let version = match segment.family {
                Family::Ipv4 => 4,
                Family::Ipv6 => 6,
            };
            assert_eq!(bytes[segment.network] >> 4, version);
            assert_eq!(
                bytes.load(segment.transport + 13),
                Some([segment.flags]),
                "the flags are elsewhere"
            );
        }
        let found = found.map(|segment| segment.flags);
        assert_eq!(found, tcp_flags(bytes, framing), "{framing:?}");
    }
});
