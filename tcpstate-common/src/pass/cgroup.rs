//! `read_cgroup`: the path of a cgroup.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a name at most, with the NUL behind it (`NAME_MAX`).
pub const CGROUP_NAME_BYTES: usize = 256;
/// Levels at most.
pub const MAX_CGROUP_DEPTH: usize = 32;

/// Which cgroup, and where things lie in a `struct kernfs_node`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct CgroupRequest {
    /// Address of its `struct kernfs_node`.
    pub node: u64,
    /// What the node has to have for its `id`: another may have come to the same place.
    pub id: u64,
    /// `kernfs_node.id`
    pub node_id: u32,
    /// `kernfs_node.count`
    pub node_count: u32,
    /// `kernfs_node.name`
    pub node_name: u32,
    /// `kernfs_node.parent`
    pub node_parent: u32,
}

/// What passes between the two sides.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Cgroup {
    /// What to do.
    pub request: CgroupRequest,
    /// For the program's own use: the next node.
    pub next: u64,
    /// How many names there are.
    pub depth: u32,
    /// 1 where the names lead to the root, and the node was the wanted one before and after.
    pub is_whole: u32,
    /// The names, the innermost first, each up to a NUL.
    pub names: [[u8; CGROUP_NAME_BYTES]; MAX_CGROUP_DEPTH],
}
