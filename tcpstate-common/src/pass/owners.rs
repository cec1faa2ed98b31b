//! `read_owners`: the kernel's list of processes, and the sockets that their descriptors lead to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::objects::{HEAD_WORDS, PIECE_WORDS, Wanted};

/// Descriptors that are looked at side by side: what costs is waiting for memory, and so many
/// waits overlap.
pub const SLOTS_TOGETHER: usize = 16;
/// Descriptors that one run hands over at most; a power of two.
pub const MAX_HELD: usize = 256;
/// Processes that one run hands over at most; a power of two.
pub const MAX_TASKS: usize = 64;
/// Steps of one run at most: groups of descriptors, or processes.
pub const MAX_OWNER_STEPS: u32 = 2048;
/// Further pieces of a socket at most.
pub const HELD_PIECES: usize = 5;
/// Processes by which a walk can go on.
pub const MAX_ANCHORS: usize = 8;
/// Bytes of `task_struct.comm`.
pub const COMM_BYTES: usize = 16;
/// Stands for the offset of a field that this kernel does not have and the walk can do without.
pub const NO_OFFSET: u32 = u32::MAX;

/// Where things lie, in bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct OwnerOffsets {
    /// `task_struct.tasks`
    pub task_list: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.start_boottime`
    pub task_start: u32,
    /// `task_struct.group_leader`
    pub task_leader: u32,
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `task_struct.files`
    pub task_files: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `task_struct.thread_node`
    pub task_thread: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.__state`
    pub task_state: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `signal_struct.thread_head`
    pub signal_threads: u32,
    /// The soft one of `signal_struct.rlim[RLIMIT_NOFILE]`
    pub signal_limit: u32,
    /// `files_struct.fdt`
    pub files_table: u32,
    /// `fdtable.max_fds`
    pub table_length: u32,
    /// `fdtable.fd`
    pub table_slots: u32,
    /// `file.f_op`
    pub file_operations: u32,
    /// `file.private_data`
    pub file_private: u32,
    /// `file.f_ref` or `file.f_count`
    pub file_references: u32,
    /// `socket.sk`
    pub socket_sock: u32,
    /// `sock_common.skc_family`
    pub sock_family: u32,
    /// `sock_common.skc_prot`
    pub sock_operations: u32,
    /// Always 0.
    pub padding: u32,
    /// `sock_common.skc_net`
    pub sock_net: u32,
    /// `sock.sk_protocol`
    pub sock_protocol: u32,
    /// `mptcp_sock.first`, or [`NO_OFFSET`]
    pub first_subflow: u32,
    /// `net.ns.inum`
    pub net_inode: u32,
    /// `css_set.dfl_cgrp`
    pub cgroups_unified: u32,
    /// The element of `css_set.subsys` for `pids`, or [`NO_OFFSET`]
    pub cgroups_pids: u32,
    /// `cgroup_subsys_state.cgroup`
    pub controller_cgroup: u32,
    /// `cgroup.kn`
    pub cgroup_node: u32,
    /// `kernfs_node.id`
    pub node_id: u32,
}

/// A process, and where it was found.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Anchor {
    /// Address of the `task_struct` of its first thread.
    pub task: u64,
    /// `CLOCK_BOOTTIME` nanoseconds at which it started.
    pub start_ns: u64,
    /// Its number.
    pub tgid: u32,
    /// Always 0.
    pub padding: u32,
}

/// Where to go on, and what is wanted.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct OwnersRequest {
    /// What a file has for its `f_op` that is a socket. Where it is 0 the run does nothing but look
    /// it up.
    pub socket_operations: u64,
    /// What a TCP socket has for its `skc_prot`, over IPv4 and over IPv6; 0 where that is not known.
    /// Others may be TCP sockets too.
    pub tcp: [u64; 2],
    /// For how long to run, in nanoseconds.
    pub run_ns: u64,
    /// Where to go on: at the first of these, or behind the first of the others that is still
    /// there. They have been walked over, the latest first.
    pub anchors: [Anchor; MAX_ANCHORS],
    /// How many there are. Where none is there any more the walk begins anew.
    pub anchor_count: u32,
    /// A descriptor of the agent's own that is a socket.
    pub own_socket: u32,
    /// Two that are TCP sockets, over IPv4 and over IPv6; other sockets where there are no such.
    pub own_tcp: [u32; 2],
    /// Where things lie.
    pub offsets: OwnerOffsets,
    /// Which states, and which pieces of sockets in them: [`HELD_PIECES`] of each kind.
    pub wanted: Wanted,
}

/// Where the walk is. It stays as it is from one run to the next.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct OwnersCursor {
    /// The process.
    pub at: Anchor,
    /// Address of the `task_struct.files` that leads to its table.
    pub files_at: u64,
    /// Address of its `files_struct`; 0 where the table is not open.
    pub files: u64,
    /// Address of its `fdtable`.
    pub table: u64,
    /// Address of the first slot.
    pub slots: u64,
    /// How many slots there are.
    pub length: u32,
    /// The next slot.
    pub next: u32,
    /// How many descriptors were open up to there.
    pub open: u32,
    /// How often the table was not what it was said to be.
    pub retries: u32,
    /// The element of `tasks` that tells of the process; [`MAX_TASKS`] for none.
    pub record: u32,
    /// 1 where it holds a wanted socket.
    pub is_holder: u32,
}

/// A process that holds a wanted socket.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct TaskRecord {
    /// When it started, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Its soft `RLIMIT_NOFILE`.
    pub limit: u64,
    /// Address of the `kernfs_node` of its cgroup in the unified hierarchy, 0 for none.
    pub cgroup_node: u64,
    /// What names that cgroup for good.
    pub cgroup_id: u64,
    /// The same in the hierarchy of the controller `pids`.
    pub pids_node: u64,
    /// The same.
    pub pids_id: u64,
    /// comm of its first thread.
    pub comm: [u8; COMM_BYTES],
    /// Its number, `task_struct.tgid`.
    pub tgid: u32,
    /// How many descriptors were found open so far.
    pub open: u32,
    /// How many slots its table has.
    pub length: u32,
    /// `task_struct.__state` of its first thread.
    pub state: u32,
    /// 1 once its whole table was walked over.
    pub is_whole: u32,
    /// Always 0.
    pub padding: u32,
}

/// A descriptor that is a socket in a wanted state.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HeldRecord {
    /// Address of the `struct sock`.
    pub sock: u64,
    /// What the file has for its number of references.
    pub references: u64,
    /// The number of the descriptor; [`NO_DESCRIPTOR`] where it became something else while it was
    /// looked at.
    pub descriptor: u32,
    /// The element of `tasks` of its process.
    pub task: u32,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// What was wanted of it: the kind. See [`Wanted`].
    pub kind: u32,
    /// The state of the MPTCP connection whose first subflow it is; 0 where it is none.
    pub mptcp_state: u32,
    /// Always 0.
    pub padding: u32,
    /// Its beginning.
    pub head: [u64; HEAD_WORDS],
    /// Further pieces.
    pub pieces: [[u64; PIECE_WORDS]; HELD_PIECES],
}

/// See [`HeldRecord::descriptor`].
pub const NO_DESCRIPTOR: u32 = u32::MAX;

/// What passes between the two sides.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Owners {
    /// What to do.
    pub request: OwnersRequest,
    /// Where the walk is.
    pub cursor: OwnersCursor,
    /// How many elements of `held` there are.
    pub held_count: u32,
    /// How many elements of `tasks` there are.
    pub task_count: u32,
    /// The anchor that was used; [`MAX_ANCHORS`] where the walk began anew.
    pub anchor: u32,
    /// 1 once the list has come round.
    pub is_done: u32,
    /// Tables that were torn down under the walk, which it has left.
    pub tables_left: u32,
    /// Processes that were looked at.
    pub tasks_seen: u32,
    /// For the program's own use: how many of the slots at hand are sockets.
    pub lanes: u32,
    /// For the program's own use.
    pub padding: u32,
    /// `CLOCK_MONOTONIC` nanoseconds when the run began.
    pub begun_ns: u64,
    /// `jiffies_64` then.
    pub jiffies: u64,
    /// For the program's own use: the first process, which cannot go.
    pub first: u64,
    /// For the program's own use: the slots at hand.
    pub slots: [u64; SLOTS_TOGETHER],
    /// For the program's own use: the same slots afterwards.
    pub slots_after: [u64; SLOTS_TOGETHER],
    /// For the program's own use: by socket, which slot it is.
    pub lane_slots: [u32; SLOTS_TOGETHER],
    /// For the program's own use: by socket, the references to its file.
    pub lane_references: [u64; SLOTS_TOGETHER],
    /// For the program's own use: by socket, its `struct socket`, and then its `struct sock`.
    pub lane_sockets: [u64; SLOTS_TOGETHER],
    /// The processes of the descriptors.
    pub tasks: [TaskRecord; MAX_TASKS],
    /// The descriptors.
    pub held: [HeldRecord; MAX_HELD],
}
