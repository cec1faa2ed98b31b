//! The web configuration file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::serve::is_web_config_understood;

fuzz_target!(|bytes: &[u8]| {
    let _ = is_web_config_understood(bytes);
});
