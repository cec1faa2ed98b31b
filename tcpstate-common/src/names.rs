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
    /// `iter/tcp`: counts the sockets of one namespace.
    pub const COUNT_SOCKETS: &str = "tcp_count";
    /// `iter/tcp`: counts the sockets of one namespace and describes those in CLOSE_WAIT.
    pub const CLOSE_WAIT: &str = "tcp_close_wait";
    /// `iter/tcp`: counts the sockets of one namespace and describes those whose peers do not
    /// answer.
    pub const UNANSWERED: &str = "tcp_unanswered";
    /// `iter/bpf_map_elem`: reads the queues of all listening sockets.
    pub const LISTENERS: &str = "tcp_listeners";
    /// `tp_btf/tcp_retransmit_synack`: counts SYN-ACKs that are sent again.
    pub const SYNACK: &str = "tcp_synack";
    /// `iter/task_file`: tells which processes hold the sockets in CLOSE_WAIT.
    pub const OWNERS: &str = "tcp_owners";
}

/// Maps.
pub mod map {
    /// Per-CPU array of one [`CpuCounters`](crate::CpuCounters).
    pub const COUNTERS: &str = "COUNTERS";
    /// Hash from a namespace's inode number to its element of [`LIVE`], or
    /// [`NO_SLOT`](crate::NamespaceCounters::NO_SLOT).
    pub const NAMESPACES: &str = "NAMESPACES";
    /// Per-CPU array of [`NamespaceCounters`](crate::NamespaceCounters); the agent sets its size.
    pub const LIVE: &str = "LIVE";
    /// Array of [`Row`](crate::stopwatch::Row): since when sockets are in CLOSE_WAIT.
    pub const STOPWATCH: &str = "STOPWATCH";
    /// Array of [`BriefRow`](crate::stopwatch::BriefRow): since when sockets are in another state.
    pub const BRIEF: &str = "BRIEF";
    /// Per-CPU array of one [`ResetCounters`](crate::ResetCounters).
    pub const RESETS: &str = "RESETS";
    /// Hash from a listening socket's address to its
    /// [`ListenerCounters`](crate::ListenerCounters).
    pub const LISTENERS: &str = "LISTENERS";
    /// Hash from a [`ListenAddress`](crate::ListenAddress) to its
    /// [`ServiceCounts`](crate::ServiceCounts).
    pub const SERVICES: &str = "SERVICES";
    /// Array of [`Destinations`](crate::Destinations).
    pub const DESTINATIONS: &str = "DESTINATIONS";
    /// Array of one [`PortSet`](crate::PortSet): what `connect()` may choose.
    pub const PORT_RANGE: &str = "PORT_RANGE";
    /// Ring buffer of [`TransitionRecord`](crate::TransitionRecord).
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU array of one [`EventCounters`](crate::EventCounters).
    pub const EVENT_COUNTERS: &str = "EVENT_COUNTERS";
    /// Array of one [`SocketCounts`](crate::SocketCounts).
    pub const SOCKET_COUNTS: &str = "SOCKET_COUNTS";
    /// Array of one [`ClockSample`](crate::ClockSample).
    pub const CLOCK: &str = "CLOCK";
    /// The ring buffer of aya-log.
    pub const KERNEL_LOG: &str = "AYA_LOGS";
}

/// Globals that the agent sets before loading, besides the kernel's field offsets
/// ([`FIELDS`](crate::FIELDS)).
pub mod global {
    /// `u8`: the [`RecordMask`](crate::RecordMask).
    pub const RECORD_MASK: &str = "RECORD_MASK";
    /// `u32`, a power of two: at each multiple of so many unread bytes the ring's reader is woken.
    pub const WAKE_UP_BYTES: &str = "WAKE_UP_BYTES";
    /// `u8`: 1 if `tcp_owners` is to write a record of every TCP socket, 0 if only of those that
    /// have to do with CLOSE_WAIT.
    pub const EVERY_OWNER: &str = "EVERY_OWNER";
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
