//! The kernel's struct fields that the programs read.
//!
//! rustc emits no CO-RE relocations, so the agent looks each field up in the running kernel's BTF
//! and sets its offset as a read-only global before loading. The verifier folds the global into a
//! constant, so a read costs what it would cost in C.

/// A field of a kernel struct, and the global that holds its offset in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelField {
    /// The `u32` global in the eBPF object.
    pub global: &'static str,
    /// The struct, as the kernel's BTF names it.
    pub structure: &'static str,
    /// The path from the struct to the field; members of anonymous structs and unions are named
    /// without them.
    pub path: &'static str,
    /// Size in bytes that the program reads; 0 for a single bit, whose offset is in bits.
    pub size: u32,
    /// The programs that cannot do without it; none where [`MISSING`] will do.
    pub needed_by: &'static [&'static str],
}

/// What the global of a field holds that this kernel does not have, where a program can do
/// without it.
pub const MISSING: u32 = u32::MAX;

macro_rules! fields {
    ($($global:ident: $structure:literal . $path:literal, $size:literal, [$($program:ident),*];)+) => {
        /// Every field that some program reads.
        pub const FIELDS: &[KernelField] = &[$(KernelField {
            global: stringify!($global),
            structure: $structure,
            path: $path,
            size: $size,
            needed_by: &[$(crate::program::$program),*],
        }),+];
    };
}

fields! {
    SK_STATE: "sock_common"."skc_state", 1, [RESET_SENT, COUNT_SOCKETS, CLOSE_WAIT, OWNERS, LISTENERS, UNANSWERED];
    SK_FAMILY: "sock_common"."skc_family", 2, [TRANSITION, RESET_SENT, COUNT_SOCKETS, CLOSE_WAIT, OWNERS, LISTENERS, UNANSWERED];
    SK_NET: "sock_common"."skc_net.net", 8, [TRANSITION, RESET_SENT, CLOSE_WAIT, OWNERS, COUNT_SOCKETS, LISTENERS, UNANSWERED];
    SK_NUM: "sock_common"."skc_num", 2, [CLOSE_WAIT, OWNERS, COUNT_SOCKETS, LISTENERS, UNANSWERED];
    SK_DPORT: "sock_common"."skc_dport", 2, [TRANSITION, RESET_SENT, COUNT_SOCKETS, CLOSE_WAIT, OWNERS, UNANSWERED];
    SK_DADDR: "sock_common"."skc_daddr", 4, [TRANSITION, RESET_SENT, COUNT_SOCKETS, CLOSE_WAIT, OWNERS, UNANSWERED];
    SK_RCV_SADDR: "sock_common"."skc_rcv_saddr", 4, [TRANSITION, RESET_SENT, COUNT_SOCKETS, CLOSE_WAIT, LISTENERS, UNANSWERED];
    SK_V6_DADDR: "sock_common"."skc_v6_daddr", 16, [TRANSITION, RESET_SENT, COUNT_SOCKETS, CLOSE_WAIT, OWNERS, UNANSWERED];
    SK_V6_RCV_SADDR: "sock_common"."skc_v6_rcv_saddr", 16, [TRANSITION, RESET_SENT, COUNT_SOCKETS, CLOSE_WAIT, LISTENERS, UNANSWERED];
    SK_PROTOCOL: "sock"."sk_protocol", 2, [TRANSITION, RESET_SENT, OWNERS];
    SK_ERR: "sock"."sk_err", 4, [TRANSITION, RESET_SENT];
    SK_FLAGS: "sock_common"."skc_flags", 8, [TRANSITION];
    SK_SOCKET: "sock"."sk_socket", 8, [TRANSITION, CLOSE_WAIT, OWNERS];
    INET_SPORT: "inet_sock"."inet_sport", 2, [TRANSITION, RESET_SENT];
    NET_INUM: "net"."ns.inum", 4, [TRANSITION, RESET_SENT, CLOSE_WAIT, OWNERS, COUNT_SOCKETS, LISTENERS, UNANSWERED];
    TW_SUBSTATE: "inet_timewait_sock"."tw_substate", 1, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    TW_TS_RECENT: "tcp_timewait_sock"."tw_ts_recent", 4, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    TW_BIND_BUCKET: "inet_timewait_sock"."tw_tb", 8, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    BIND_BUCKET: "inet_connection_sock"."icsk_bind_hash", 8, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    FAST_REUSE: "inet_bind_bucket"."fastreuse", 1, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    RCV_NXT: "tcp_sock"."rcv_nxt", 4, [CLOSE_WAIT, OWNERS];
    COPIED_SEQ: "tcp_sock"."copied_seq", 4, [CLOSE_WAIT, OWNERS];
    WRITE_SEQ: "tcp_sock"."write_seq", 4, [TRANSITION, CLOSE_WAIT, OWNERS, UNANSWERED];
    SND_UNA: "tcp_sock"."snd_una", 4, [TRANSITION, CLOSE_WAIT, OWNERS, UNANSWERED];
    RCV_TSTAMP: "tcp_sock"."rcv_tstamp", 4, [CLOSE_WAIT, OWNERS, UNANSWERED];
    SENT_AGAIN: "inet_connection_sock"."icsk_retransmits", 1, [UNANSWERED];
    PROBES_OUT: "inet_connection_sock"."icsk_probes_out", 1, [UNANSWERED];
    ACCEPT_HEAD: "inet_connection_sock"."icsk_accept_queue.rskq_accept_head", 8, [OWNERS];
    ACK_BACKLOG: "sock"."sk_ack_backlog", 4, [OWNERS, LISTENERS];
    MAX_ACK_BACKLOG: "sock"."sk_max_ack_backlog", 4, [TRANSITION, LISTENERS];
    SK_DROPS: "sock"."sk_drops.counter", 4, [LISTENERS];
    REQ_QUEUE_LENGTH: "inet_connection_sock"."icsk_accept_queue.qlen.counter", 4, [LISTENERS];
    DEFER_ACCEPT: "inet_connection_sock"."icsk_accept_queue.rskq_defer_accept", 1, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    REQ_RETRANSMITS: "request_sock"."num_retrans", 1, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    REQ_ACKED: "inet_request_sock"."acked", 0, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    REQ_SENT: "tcp_request_sock"."snt_synack", 8, [COUNT_SOCKETS, CLOSE_WAIT, UNANSWERED];
    SRTT: "tcp_sock"."srtt_us", 4, [TRANSITION];
    TOTAL_RETRANSMITS: "tcp_sock"."total_retrans", 4, [TRANSITION];
    DATA_SEGMENTS_IN: "tcp_sock"."data_segs_in", 4, [TRANSITION];
    REQ_SK: "request_sock"."sk", 8, [OWNERS];
    REQ_NEXT: "request_sock"."dl_next", 8, [OWNERS];
    FILE_INODE: "file"."f_inode", 8, [OWNERS];
    FILE_PRIVATE: "file"."private_data", 8, [OWNERS];
    INODE_MODE: "inode"."i_mode", 2, [OWNERS];
    SOCKET_FILE: "socket"."file", 8, [OWNERS];
    SOCKET_SK: "socket"."sk", 8, [OWNERS];
    TASK_TGID: "task_struct"."tgid", 4, [TRANSITION, OWNERS];
    TASK_LEADER: "task_struct"."group_leader", 8, [TRANSITION, OWNERS];
    TASK_COMM: "task_struct"."comm", 16, [TRANSITION];
    TASK_START: "task_struct"."start_boottime", 8, [OWNERS];
    SEQ_FILE: "bpf_iter_meta"."seq", 8, [CLOSE_WAIT, OWNERS, LISTENERS, UNANSWERED];
    // One of the two counts the references to a file: the first since 6.13.
    FILE_REF: "file"."f_ref", 8, [];
    FILE_COUNT: "file"."f_count", 8, [];
    // The kernel's own notion of now, where it keeps it for a socket.
    TCP_CLOCK: "tcp_sock"."tcp_clock_cache", 8, [];
    // How long the process lets it wait in FIN_WAIT2; below 0, not at all.
    LINGER2: "tcp_sock"."linger2", 4, [];
    // Where the kernel has Multipath TCP.
    MPTCP_FIRST: "mptcp_sock"."first", 8, [];
}
