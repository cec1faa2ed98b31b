//! `read_block`: one piece of the kernel's memory.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ClockSample;

/// Bytes that are copied at most: the bits of all ports.
pub const BLOCK_BYTES: usize = 8192;

/// Stands for the address of the `struct bpf_array` of the per-CPU array that [`Place`] is about.
pub const PER_CPU_ARRAY: u64 = 0;

/// What only a program can tell; addresses are numbers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Place {
    /// The task that asks.
    pub task: u64,
    /// The element of a per-CPU array, of the CPU that the program runs on.
    pub per_cpu_element: u64,
    /// The kernel's clocks, which tell how long a jiffy is.
    pub clock: ClockSample,
}

/// What passes between the two sides.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Block {
    /// Where to copy from.
    pub address: u64,
    /// How many bytes, [`BLOCK_BYTES`] at most.
    pub bytes: u32,
    /// 1 where they were read.
    pub is_read: u32,
    /// Where the program is.
    pub place: Place,
    /// What it has copied.
    pub words: [u64; BLOCK_BYTES / 8],
}
