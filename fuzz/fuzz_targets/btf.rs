//! The kernel's type information, and all that the agent asks it at its start.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::kernel::{facts::BtfFacts, kernel_btf::KernelBtf};

fuzz_target!(|bytes: &[u8]| {
    let Ok(types) = KernelBtf::from_bytes(bytes.to_vec()) else {
        return;
    };
    let _ = BtfFacts::of(&types);
    // What the commands ask besides.
    let _ = types.enumerators(&["SOCK_", "MSG_"]);
    for name in ["inet_csk_accept", "tcp_recvmsg"] {
        let _ = types.function_parameters(name);
    }
});
