//! A stack, registers and tables that a process has made up, to have whoever unwinds it go astray.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::code_location::native::unwind_by;
use tcpstate_common::REGISTER_WORDS;

const REGISTER_BYTES: usize = REGISTER_WORDS * 8;

fuzz_target!(|bytes: &[u8]| {
    let Some((words, rest)) = bytes.split_at_checked(REGISTER_BYTES) else {
        return;
    };
    let words = words.as_chunks::<8>().0;
    let mut registers = [0; REGISTER_WORDS];
    for (register, word) in registers.iter_mut().zip(words) {
        *register = u64::from_le_bytes(*word);
    }
    let (stack, tables) = rest.split_at(rest.len() / 2);
    let found = unwind_by(tables, &registers, stack);
    assert!((1..=256).contains(&found.addresses.len()));
});
