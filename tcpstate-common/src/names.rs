//! Names by which the agent finds what the eBPF object holds.
//!
//! The kernel keeps 15 characters of a name; longer ones would be cut in `bpftool`.

/// Programs.
pub mod program {
    /// `tp_btf/inet_sock_set_state`: counts every state transition.
    pub const TRANSITION: &str = "tcp_transition";
    /// `tp_btf/tcp_send_reset`: counts resets that are sent.
    pub const RESET_SENT: &str = "tcp_reset_sent";
    /// `tp_btf/tcp_receive_reset`: counts resets that come.
    pub const RESET_RECEIVED: &str = "tcp_reset_recv";
    /// `tp_btf/tcp_retransmit_synack`: counts SYN-ACKs that are sent again.
    pub const SYNACK: &str = "tcp_synack";
    /// Run on request: reads a range of buckets of a hash table.
    pub const READ_TABLE: &str = "read_table";
    /// Run on request: reads the list of network namespaces.
    pub const READ_NAMESPACES: &str = "read_namespaces";
    /// Run on request: reads one piece of memory.
    pub const READ_BLOCK: &str = "read_block";
    /// Run on request: tells which processes hold the sockets in CLOSE_WAIT.
    pub const OWNERS: &str = "read_owners";
    /// Run on request: goes along the accept queue of a listener.
    pub const CHAIN: &str = "read_chain";
    /// Run on request: reads the path of a cgroup.
    pub const CGROUP: &str = "read_cgroup";
    /// Run once: tells where the addresses in [`map::STOPWATCH`](super::map::STOPWATCH) and
    /// [`map::LIVE`](super::map::LIVE) are measured from.
    pub const ORIGIN: &str = "tcp_origin";
}

/// Maps.
pub mod map {
    /// Per-CPU array of one [`CpuCounters`](crate::CpuCounters).
    pub const COUNTERS: &str = "COUNTERS";
    /// Hash from a namespace's key to its element of [`LIVE`], where that is not the one that it
    /// [belongs to](crate::NamespaceCounters::home).
    pub const SLOTS: &str = "SLOTS";
    /// Per-CPU array of [`NamespaceCounters`](crate::NamespaceCounters); the agent sets its size.
    pub const LIVE: &str = "LIVE";
    /// Per-CPU hash from a namespace's key to its
    /// [`NamespaceCounters`](crate::NamespaceCounters), until it has an element of [`LIVE`].
    pub const YOUNG: &str = "YOUNG";
    /// Array of [`Row`](crate::stopwatch::Row): since when sockets are in CLOSE_WAIT.
    pub const STOPWATCH: &str = "STOPWATCH";
    /// Array of one `u64`: the address that those of sockets and namespaces are measured from.
    pub const ORIGIN: &str = "ORIGIN";
    /// Array of one [`Table`](crate::pass::Table).
    pub const TABLE: &str = "TABLE";
    /// Array of one [`Namespaces`](crate::pass::Namespaces).
    pub const KERNEL_NAMESPACES: &str = "NETS";
    /// Array of one [`Block`](crate::pass::Block).
    pub const BLOCK: &str = "BLOCK";
    /// Array of one [`Owners`](crate::pass::Owners).
    pub const OWNERS: &str = "OWNERS";
    /// Array of one [`Chain`](crate::pass::Chain).
    pub const CHAIN: &str = "CHAIN";
    /// Array of one [`Cgroup`](crate::pass::Cgroup).
    pub const CGROUP: &str = "CGROUP";
    /// Array of [`BriefRow`](crate::stopwatch::BriefRow): since when sockets are in another state.
    pub const BRIEF: &str = "BRIEF";
    /// Per-CPU array of one [`ResetCounters`](crate::ResetCounters).
    pub const RESETS: &str = "RESETS";
    /// Hash from a listening socket's address to how many SYN-ACKs were sent again at it.
    pub const SYNACKS: &str = "SYNACKS";
    /// Ring buffer of [`TransitionRecord`](crate::TransitionRecord).
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU array of one [`EventCounters`](crate::EventCounters).
    pub const EVENT_COUNTERS: &str = "EVENT_COUNTERS";
    /// The ring buffer of aya-log.
    pub const KERNEL_LOG: &str = "AYA_LOGS";
}

/// Globals that the agent sets before loading, besides the kernel's field offsets
/// ([`FIELDS`](crate::FIELDS)).
pub mod global {
    /// `u8`: the [`RecordMask`](crate::RecordMask).
    pub const RECORD_MASK: &str = "RECORD_MASK";
    /// `u32`: how many elements [`map::LIVE`](super::map::LIVE) has.
    pub const LIVE_SLOTS: &str = "LIVE_SLOTS";
    /// `u32`, a power of two: at each multiple of so many unread bytes the ring's reader is woken.
    pub const WAKE_UP_BYTES: &str = "WAKE_UP_BYTES";
    /// `u8`: 1 if `tcp_send_reset` tells why the reset is sent.
    pub const RESETS_HAVE_REASONS: &str = "RESET_REASON";
    /// `u8`: the level of aya-log, 0 for off.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}

/// Programs of the object that counts segments on network interfaces.
pub mod segment_program {
    /// XDP: counts what comes in.
    pub const XDP: &str = "segments_xdp";
    /// XDP: the same, for packets that lie in several pieces.
    pub const XDP_FRAGS: &str = "segments_frags";
    /// TC: counts what comes in.
    pub const TC_IN: &str = "segments_tc_in";
    /// TC: counts what goes out.
    pub const TC_OUT: &str = "segments_tc_out";
}

/// Maps of that object.
pub mod segment_map {
    /// Array of [`DeviceEntry`](crate::DeviceEntry).
    pub const DEVICES: &str = "DEVICES";
    /// Per-CPU array of [`SegmentCounts`](crate::SegmentCounts); the agent sets its size.
    pub const COUNTS: &str = "SEGMENTS";
    /// Ring buffer of [`SegmentRecord`](crate::SegmentRecord).
    pub const RECORDS: &str = "SEGMENT_RING";
    /// Per-CPU array of one [`SegmentEvents`](crate::SegmentEvents).
    pub const EVENTS: &str = "SEGMENT_EVENTS";
}

/// Globals of that object.
pub mod segment_global {
    /// `u32`: telling segments that may be recorded by each CPU in a window; 0 for none.
    pub const RECORD_LIMIT: &str = "RECORD_LIMIT";
}
