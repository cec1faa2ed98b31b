//! What processes write themselves, or have the kernel say of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::{
    code_location::{maps, perf_map::PerfMap, tcp_table::socket_inode},
    host::process::{label_text, terminal_text},
};

fuzz_target!(|bytes: &[u8]| {
    for mapping in maps::parse(bytes) {
        assert!(mapping.start <= mapping.end);
    }
    let map = PerfMap::parse(bytes);
    for address in [0, 0x1000, u64::MAX] {
        let _ = map.function(address);
    }
    let (label, shown) = (label_text(bytes), terminal_text(bytes));
    assert!(!label.contains('\0'));
    assert!(!shown.contains(|character: char| character.is_control()));
    let _ = socket_inode(&label);
});
