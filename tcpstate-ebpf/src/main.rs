//! The eBPF programs of tcpstate. They observe and change nothing.
//!
//! One file a program, one file a map; a map is private to the module that knows what it means.
//!
//! | program | file |
//! | --- | --- |
//! | `tcp_transition` | `transition.rs`: every state transition |
//! | `tcp_count` | `count_sockets.rs`: the sockets of one namespace |
//! | `tcp_close_wait` | `close_wait.rs`: the same, and which of them are in CLOSE_WAIT |
//! | `tcp_unanswered` | `unanswered.rs`: the same, and which peers do not answer |
//! | `tcp_listeners` | `listeners.rs`: the queues of the listening sockets |
//! | `tcp_synack` | `synack.rs`: SYN-ACKs that are sent again |
//! | `tcp_reset_sent`, `tcp_reset_recv` | `resets.rs`: resets |
//! | `tcp_owners` | `owners.rs`: which processes hold those |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "a BPF function call passes five words, and the verifier loses sight of what they are"
)]

mod clock;
mod close_wait;
mod count_sockets;
mod counters;
mod destinations;
mod ends;
mod event_ring;
mod handshake;
mod kernel;
mod listeners;
mod namespaces;
mod owners;
mod ports;
mod records;
mod resets;
mod services;
mod stopwatch;
mod synack;
mod transition;
mod unanswered;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are given only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
