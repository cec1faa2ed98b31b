//! Records of the kernel side's rings, each decoded or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::{
    code_location::sample::Sample, collect::segments::Segment, decode::Transition,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(transition) = Transition::decode(bytes) {
        assert_eq!(transition.local.is_ipv4(), transition.remote.is_ipv4());
    }
    if let Ok(segment) = Segment::decode(bytes) {
        assert_eq!(segment.source.is_ipv4(), segment.destination.is_ipv4());
    }
    if let Ok(sample) = Sample::decode(bytes) {
        assert!(sample.stack_bytes() <= bytes.len());
        let stack = sample.registers.stack;
        for address in [
            0,
            stack,
            stack.wrapping_add(8),
            stack.wrapping_sub(1),
            u64::MAX,
        ] {
            let _ = sample.word(address);
        }
    }
});
