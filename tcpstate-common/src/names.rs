//! Names by which the agent finds what the eBPF object holds.
//!
//! The kernel keeps 15 characters of a name; longer ones would be cut in `bpftool`.

/// Programs.
pub mod program {
    /// `tp_btf/inet_sock_set_state`: counts every state transition.
    pub const TRANSITION: &str = "tcp_transition";
    /// `iter/tcp`: counts the sockets of one namespace.
    pub const COUNT_SOCKETS: &str = "tcp_count";
    /// `iter/tcp`: counts the sockets of one namespace and describes those in CLOSE_WAIT.
    pub const CLOSE_WAIT: &str = "tcp_close_wait";
    /// `iter/task_file`: tells which processes hold the sockets in CLOSE_WAIT.
    pub const OWNERS: &str = "tcp_owners";
}

/// Maps.
pub mod map {
    /// Per-CPU array of one [`TransitionMatrix`](crate::TransitionMatrix).
    pub const TRANSITIONS: &str = "TRANSITIONS";
    /// Hash from a namespace's inode number to its element of [`LIVE`], or
    /// [`NO_SLOT`](crate::NamespaceCounters::NO_SLOT).
    pub const NAMESPACES: &str = "NAMESPACES";
    /// Per-CPU array of [`NamespaceCounters`](crate::NamespaceCounters); the agent sets its size.
    pub const LIVE: &str = "LIVE";
    /// Array of [`Row`](crate::stopwatch::Row): since when sockets are in their state.
    pub const STOPWATCH: &str = "STOPWATCH";
    /// Per-CPU array of one [`Durations`](crate::Durations).
    pub const DURATIONS: &str = "DURATIONS";
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
    /// `u32`: unread bytes in the ring at which its reader is woken.
    pub const WAKE_UP_BYTES: &str = "WAKE_UP_BYTES";
    /// `u8`: 1 if `tcp_owners` is to write a record of every TCP socket, 0 if only of those that
    /// have to do with CLOSE_WAIT.
    pub const EVERY_OWNER: &str = "EVERY_OWNER";
    /// `u8`: the level of aya-log, 0 for off.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}
