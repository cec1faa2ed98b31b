//! What is asked over the control socket.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::serve::control::{Answer, read_request};

fuzz_target!(|bytes: &[u8]| {
    if let Err(why) = read_request(bytes) {
        assert!(!why.is_empty());
    }
    // The asking side believes no more of what it is answered.
    let _ = serde_json::from_slice::<Answer>(bytes);
});
