//! The eBPF programs that read the kernel's own tables. They are attached to nothing: the agent runs
//! each when it wants something of it, for some ten microseconds at a time.
//!
//! | program | file |
//! | --- | --- |
//! | `read_table` | `table.rs`: the objects in some buckets of a hash table |
//! | `read_namespaces` | `namespaces.rs`: the list of network namespaces |
//! | `read_owners` | `owners.rs`: processes, and the sockets that their descriptors lead to |
//! | `read_chain` | `chain.rs`: the accept queue of a listener |
//! | `read_cgroup` | `cgroup.rs`: the path of a cgroup |
//! | `read_block` | `block.rs`: one piece of memory |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "a BPF function call passes five words, and the verifier loses sight of what they are"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "what is cast is below the size of a table"
)]

mod block;
mod cgroup;
mod chain;
mod memory;
mod namespaces;
mod objects;
mod owners;
mod table;

/// `BPF_F_MMAPABLE`: the agent has the map in its memory.
const MMAPABLE: u32 = 1 << 10;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are given only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
