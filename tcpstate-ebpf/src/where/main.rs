//! The eBPF programs that find places in a process's code: where its sockets were opened,
//! accepted and read, and where its threads are. They observe and change nothing.
//!
//! An object of its own: it is in the kernel only while `tcpstate-agent where` runs. The first
//! thing that each program asks is whether this is the watched process.
//!
//! | program | sees |
//! | --- | --- |
//! | `where_state` | connects, and when sockets are in CLOSE_WAIT |
//! | `where_read` | reads of sockets (Linux 6.3) |
//! | `where_read6`, `where_read5` | the same, where that tracepoint is not there |
//! | `where_syscall` | the same, at a cost for every system call of the host |
//! | `where_accept4`, `where_accept2` | accepts |
//! | `where_accepted` | the same, at a cost for every system call of the host |
//! | `where_accexit` | the same, where that cannot be attached |
//! | `where_threads` | all threads as they are now |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "a BPF function call passes five words, and the verifier loses sight of what they are"
)]

mod events;
mod kernel;
mod memory;
mod python;
mod samples;
mod sockets;
mod threads;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are given only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
