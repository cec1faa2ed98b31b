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
    /// The path from the struct to the field by each of the names that the kernel has had for it, the
    /// newest first; members of anonymous structs and unions are named without them.
    pub paths: &'static [&'static str],
    /// Size in bytes that the program reads; 0 for a single bit, whose offset is in bits.
    pub size: u32,
    /// Whether the programs that read it can do without it. Those that cannot do not run on a kernel
    /// that does not have it.
    pub is_optional: bool,
}

/// What the global of a field holds until its offset is found, and for good where this kernel does not
/// have it.
pub const MISSING: u32 = u32::MAX;

macro_rules! fields {
    ($($global:ident $($optional:ident)?: $structure:literal . $($path:literal)|+, $size:literal;)+) => {
        &[$($crate::KernelField {
            global: stringify!($global),
            structure: $structure,
            paths: &[$($path),+],
            size: $size,
            is_optional: fields!(@is_optional $($optional)?),
        }),+]
    };
    (@is_optional) => { false };
    (@is_optional $optional:ident) => { true };
}

pub(crate) use fields;

/// Every field that some program of the agent's own object reads. Which program reads which is in that
/// object.
pub const FIELDS: &[KernelField] = fields! {
    SK_STATE: "sock_common"."skc_state", 1;
    SK_FAMILY: "sock_common"."skc_family", 2;
    SK_NET: "sock_common"."skc_net.net", 8;
    SK_DPORT: "sock_common"."skc_dport", 2;
    SK_DADDR: "sock_common"."skc_daddr", 4;
    SK_RCV_SADDR: "sock_common"."skc_rcv_saddr", 4;
    SK_V6_DADDR: "sock_common"."skc_v6_daddr", 16;
    SK_V6_RCV_SADDR: "sock_common"."skc_v6_rcv_saddr", 16;
    SK_PROTOCOL: "sock"."sk_protocol", 2;
    SK_ERR: "sock"."sk_err", 4;
    SK_FLAGS: "sock_common"."skc_flags", 8;
    SK_SOCKET: "sock"."sk_socket", 8;
    INET_SPORT: "inet_sock"."inet_sport", 2;
    NET_INUM: "net"."ns.inum", 4;
    MAX_ACK_BACKLOG: "sock"."sk_max_ack_backlog", 4;
    WRITE_SEQ: "tcp_sock"."write_seq", 4;
    SND_UNA: "tcp_sock"."snd_una", 4;
    SRTT: "tcp_sock"."srtt_us", 4;
    TOTAL_RETRANSMITS: "tcp_sock"."total_retrans", 4;
    DATA_SEGMENTS_IN: "tcp_sock"."data_segs_in", 4;
    TASK_TGID: "task_struct"."tgid", 4;
    TASK_LEADER: "task_struct"."group_leader", 8;
    TASK_COMM: "task_struct"."comm", 16;
    // The kernel's own notion of now, where it keeps it for a socket.
    TCP_CLOCK optional: "tcp_sock"."tcp_clock_cache", 8;
    // How long the process lets it wait in FIN_WAIT2; below 0, not at all.
    LINGER2 optional: "tcp_sock"."linger2", 4;
};
