//! The eBPF programs of tcpstate. They observe and change nothing.
//!
//! One file a program, one file a map; a map is private to the module that knows what it means.
//!
//! | program | file |
//! | --- | --- |
//! | `tcp_transition` | `transition.rs`: every state transition |
//! | `tcp_synack` | `synack.rs`: SYN-ACKs that are sent again |
//! | `tcp_reset_sent`, `tcp_reset_recv` | `resets.rs`: resets |
//! | `tcp_origin` | `stopwatch.rs`: where addresses are measured from, once |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "a BPF function call passes five words, and the verifier loses sight of what they are"
)]

mod clock;
mod counters;
mod ends;
mod event_ring;
mod handshake;
mod kernel;
mod namespaces;
mod records;
mod resets;
mod stopwatch;
mod synack;
mod transition;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are given only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
