//! `read_table`: a range of buckets of a hash table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::objects::{MAX_OBJECTS, Objects, Wanted};

/// Buckets that are read at once at most. Their chains are followed side by side: what costs is
/// waiting for memory, and so many waits overlap.
pub const MAX_LANES: usize = 64;
/// Words of the buckets that are read at once.
pub const BUCKET_WORDS: usize = 512;
/// Groups of so many buckets that one run reads at most.
pub const MAX_GROUPS: u32 = 128;
/// Objects of one chain that one run follows at most.
pub const MAX_CHAIN: u32 = 2048;
/// Buckets that one run reports as not read at most. More cannot be: each has begun with a lane.
pub const MAX_UNREAD: usize = 8192;
/// Objects that one run is expected to meet at most, and that a group is: with more it begins with no
/// further group, as long as there is room for a chain that is unusually long.
pub const ROOM_FOR_GROUP: u32 = 256;

/// Which buckets to read, and how.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct TableRequest {
    /// Address of bucket 0.
    pub buckets: u64,
    /// The first bucket to read.
    pub first: u32,
    /// The one behind the last.
    pub end: u32,
    /// Bytes from one bucket to the next, a multiple of 8.
    pub stride: u32,
    /// Where in a bucket the pointer to its first node is, in bytes; a multiple of 8.
    pub chain: u32,
    /// Buckets that are read at once: 1 to [`MAX_LANES`], and no more than [`BUCKET_WORDS`] hold.
    pub lanes: u32,
    /// Where in an object its node is, in bytes; a multiple of 8.
    pub node: u32,
    /// Where in the beginning of an object its hash is, in bytes; a multiple of 4.
    pub hash: u32,
    /// Which bits of the hash are the number of the bucket. 0: nothing tells whether an object
    /// belongs to the bucket.
    pub mask: u32,
    /// What the chain of bucket 0 ends with: an odd number for `hlist_nulls`, 0 for `hlist`.
    pub end_base: u64,
    /// How much more the chain of each further bucket ends with.
    pub end_step: u64,
    /// Address of the `struct list_head` by which the network namespace is linked that the table
    /// goes with, 0 for a table that stays. In one that is not linked any more nothing is read.
    pub owner: u64,
    /// Where the cookie of that namespace is.
    pub cookie_at: u64,
    /// What it has to be: another namespace may have come to the same place.
    pub cookie: u64,
    /// The node behind which to go on in the one bucket that is asked for, 0 to begin with its
    /// first.
    pub after: u64,
    /// What is wanted of the objects.
    pub wanted: Wanted,
}

/// What passes between the two sides.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Table {
    /// What to do.
    pub request: TableRequest,
    /// The next bucket to begin with; `request.end` or more once all were.
    pub next: u32,
    /// How many chains broke off, led elsewhere, were too long, or did not fit.
    pub unread: u32,
    /// 1 where the table cannot be read, or the namespace is gone that it went with.
    pub is_gone: u32,
    /// 1 where one bucket was asked for, and its chain goes on behind the last object.
    pub goes_on: u32,
    /// For the program's own use: the chains that it follows.
    pub lanes: u32,
    /// For the program's own use: those of them that go on.
    pub going: u32,
    /// The next node of each.
    pub nodes: [u64; MAX_LANES],
    /// Its bucket.
    pub lane_buckets: [u32; MAX_LANES],
    /// The buckets as they lie in memory.
    pub raw_buckets: [u64; BUCKET_WORDS],
    /// The buckets of the objects.
    pub buckets: [u32; MAX_OBJECTS],
    /// The buckets that were not read. What was met of them means nothing.
    pub unread_buckets: [u32; MAX_UNREAD],
    /// What was met.
    pub objects: Objects,
}
