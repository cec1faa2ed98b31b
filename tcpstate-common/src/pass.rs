//! Reading the kernel's own tables: what the agent asks of the programs that it runs for that, and
//! what it gets.
//!
//! These programs know nothing of sockets. They follow pointers, copy the beginning of each object
//! that they meet, and for those in certain states some more pieces of it. Where things lie in an
//! object is for the agent to know, which has looked it up in the kernel's BTF. What passes between
//! the two is one element of one map that the agent has mapped into its memory; a program writes it
//! only while the agent waits for the run to end.

mod block;
mod cgroup;
mod chain;
mod namespaces;
mod objects;
mod owners;
mod table;

pub use block::{BLOCK_BYTES, Block, PER_CPU_ARRAY, Place};
pub use cgroup::{CGROUP_NAME_BYTES, Cgroup, CgroupRequest, MAX_CGROUP_DEPTH};
pub use chain::{CHAIN_STATES, Chain, ChainEnd, ChainRequest, MAX_CHAINED};
pub use namespaces::{
    MAX_CPUS, MAX_LINUX_MIB, MAX_NET_PIECES, MAX_TCP_MIB, NAMESPACES_A_RUN, NamespaceObject,
    Namespaces, NamespacesRequest, PROTOCOLS,
};
pub use objects::{
    HEAD_BYTES, HEAD_WORDS, MAX_KINDS, MAX_OBJECTS, MAX_PIECES, NO_KIND, Objects, PIECE_BYTES,
    PIECE_WORDS, Wanted,
};
pub use owners::{
    Anchor, COMM_BYTES, HELD_PIECES, HeldRecord, MAX_ANCHORS, MAX_HELD, MAX_OWNER_STEPS, MAX_TASKS,
    NO_DESCRIPTOR, NO_OFFSET, OwnerOffsets, Owners, OwnersCursor, OwnersRequest, SLOTS_TOGETHER,
    TaskRecord,
};
pub use table::{
    BUCKET_WORDS, MAX_CHAIN, MAX_GROUPS, MAX_LANES, MAX_UNREAD, ROOM_FOR_GROUP, Table, TableRequest,
};
