//! Copies of objects of the kernel.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Words that are copied of every object: two cache lines, with nearly all of a
/// `struct sock_common` in them.
pub const HEAD_WORDS: usize = 16;
/// The same in bytes.
pub const HEAD_BYTES: usize = HEAD_WORDS * 8;
/// Words of a further piece of an object: a cache line.
pub const PIECE_WORDS: usize = 8;
/// The same in bytes.
pub const PIECE_BYTES: usize = PIECE_WORDS * 8;
/// Objects that one run copies at most.
pub const MAX_OBJECTS: usize = 2048;
/// Further pieces of one object at most.
pub const MAX_PIECES: usize = 8;
/// Kinds of object that differ in what is wanted of them.
pub const MAX_KINDS: usize = 4;

/// What is wanted of objects besides their beginnings.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Wanted {
    /// Where in the beginning the byte is that tells the kind of an object: its state.
    pub state: u32,
    /// By kind: the states, a bit each.
    pub states: [u32; MAX_KINDS],
    /// By kind: where the further pieces begin, in bytes. Those that are 0 are left out.
    pub pieces: [[u32; MAX_PIECES]; MAX_KINDS],
    /// Always 0.
    pub padding: u32,
}

/// The objects that one run has met.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Objects {
    /// How many there are.
    pub count: u32,
    /// Always 0.
    pub padding: u32,
    /// Their addresses.
    pub addresses: [u64; MAX_OBJECTS],
    /// Their kinds: which pieces were taken. [`NO_KIND`] for none.
    pub kinds: [u32; MAX_OBJECTS],
    /// Their beginnings.
    pub heads: [[u64; HEAD_WORDS]; MAX_OBJECTS],
    /// Further pieces of them.
    pub pieces: [[[u64; PIECE_WORDS]; MAX_PIECES]; MAX_OBJECTS],
}

/// No further pieces of an object were wanted.
pub const NO_KIND: u32 = u32::MAX;
