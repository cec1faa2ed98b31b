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
    /// Size in bytes that the program reads.
    pub size: u32,
    /// The programs that cannot do without it.
    pub needed_by: &'static [&'static str],
}

macro_rules! fields {
    ($($global:ident: $structure:literal . $path:literal, $size:literal, [$($program:ident),+];)+) => {
        /// Every field that some program reads.
        pub const FIELDS: &[KernelField] = &[$(KernelField {
            global: stringify!($global),
            structure: $structure,
            path: $path,
            size: $size,
            needed_by: &[$(crate::program::$program),+],
        }),+];
    };
}

fields! {
    SK_STATE: "sock_common"."skc_state", 1, [COUNT_SOCKETS];
    SK_FAMILY: "sock_common"."skc_family", 2, [TRANSITION, COUNT_SOCKETS];
    SK_NET: "sock_common"."skc_net.net", 8, [TRANSITION];
    SK_DPORT: "sock_common"."skc_dport", 2, [TRANSITION];
    SK_DADDR: "sock_common"."skc_daddr", 4, [TRANSITION];
    SK_RCV_SADDR: "sock_common"."skc_rcv_saddr", 4, [TRANSITION];
    SK_V6_DADDR: "sock_common"."skc_v6_daddr", 16, [TRANSITION];
    SK_V6_RCV_SADDR: "sock_common"."skc_v6_rcv_saddr", 16, [TRANSITION];
    SK_PROTOCOL: "sock"."sk_protocol", 2, [TRANSITION];
    SK_ERR: "sock"."sk_err", 4, [TRANSITION];
    SK_FLAGS: "sock_common"."skc_flags", 8, [TRANSITION];
    INET_SPORT: "inet_sock"."inet_sport", 2, [TRANSITION];
    NET_INUM: "net"."ns.inum", 4, [TRANSITION];
    TW_SUBSTATE: "inet_timewait_sock"."tw_substate", 1, [COUNT_SOCKETS];
}
