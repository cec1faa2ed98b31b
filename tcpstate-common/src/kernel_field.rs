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
    SK_STATE: "sock_common"."skc_state", 1, [RESET_SENT];
    SK_FAMILY: "sock_common"."skc_family", 2, [TRANSITION, RESET_SENT];
    SK_NET: "sock_common"."skc_net.net", 8, [TRANSITION, RESET_SENT];
    SK_DPORT: "sock_common"."skc_dport", 2, [TRANSITION, RESET_SENT];
    SK_DADDR: "sock_common"."skc_daddr", 4, [TRANSITION, RESET_SENT];
    SK_RCV_SADDR: "sock_common"."skc_rcv_saddr", 4, [TRANSITION, RESET_SENT];
    SK_V6_DADDR: "sock_common"."skc_v6_daddr", 16, [TRANSITION, RESET_SENT];
    SK_V6_RCV_SADDR: "sock_common"."skc_v6_rcv_saddr", 16, [TRANSITION, RESET_SENT];
    SK_PROTOCOL: "sock"."sk_protocol", 2, [TRANSITION, RESET_SENT];
    SK_ERR: "sock"."sk_err", 4, [TRANSITION, RESET_SENT];
    SK_FLAGS: "sock_common"."skc_flags", 8, [TRANSITION];
    SK_SOCKET: "sock"."sk_socket", 8, [TRANSITION];
    INET_SPORT: "inet_sock"."inet_sport", 2, [TRANSITION, RESET_SENT];
    NET_INUM: "net"."ns.inum", 4, [TRANSITION, RESET_SENT];
    MAX_ACK_BACKLOG: "sock"."sk_max_ack_backlog", 4, [TRANSITION];
    WRITE_SEQ: "tcp_sock"."write_seq", 4, [TRANSITION];
    SND_UNA: "tcp_sock"."snd_una", 4, [TRANSITION];
    SRTT: "tcp_sock"."srtt_us", 4, [TRANSITION];
    TOTAL_RETRANSMITS: "tcp_sock"."total_retrans", 4, [TRANSITION];
    DATA_SEGMENTS_IN: "tcp_sock"."data_segs_in", 4, [TRANSITION];
    TASK_TGID: "task_struct"."tgid", 4, [TRANSITION];
    TASK_LEADER: "task_struct"."group_leader", 8, [TRANSITION];
    TASK_COMM: "task_struct"."comm", 16, [TRANSITION];
    // The kernel's own notion of now, where it keeps it for a socket.
    TCP_CLOCK: "tcp_sock"."tcp_clock_cache", 8, [];
    // How long the process lets it wait in FIN_WAIT2; below 0, not at all.
    LINGER2: "tcp_sock"."linger2", 4, [];
}
