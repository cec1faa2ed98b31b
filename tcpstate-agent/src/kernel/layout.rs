//! Where things lie in the kernel's structs, for what reads copies of them.

use std::collections::BTreeMap;

use super::kernel_btf::{FieldError, KernelBtf};

/// A field of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where it begins, in bytes.
    pub offset: u32,
    /// How long it is, in bytes.
    pub size: u32,
}

/// A single bit of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit {
    /// The byte that it is in.
    pub byte: Field,
    /// Which of its bits.
    pub number: u32,
}

/// Looks fields up.
pub(super) struct Fields<'a>(pub(super) &'a KernelBtf);

type Found = Result<Field, FieldError>;

impl Fields<'_> {
    /// The first of `paths` that there is, in one of the sizes.
    fn any(&self, structure: &'static str, paths: &[&'static str], sizes: &[u32]) -> Found {
        let names = paths
            .iter()
            .flat_map(|&path| sizes.iter().map(move |&size| (path, size)));
        let (offset, size) = self.0.first_of(structure, names)?;
        Ok(Field { offset, size })
    }

    fn one(&self, structure: &'static str, path: &'static str, size: u32) -> Found {
        self.any(structure, &[path], &[size])
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "the table calls all of these alike"
    )]
    fn member(&self, structure: &'static str, name: &'static str) -> Result<bool, FieldError> {
        Ok(self.0.has_member(structure, name))
    }

    fn size(&self, structure: &'static str) -> Result<u32, FieldError> {
        let size = self.0.size_of(structure);
        size.ok_or(FieldError::NoStruct { structure })
    }

    /// Bit `number` of a field that is a byte, or some bits of one in older kernels.
    fn flag(&self, structure: &'static str, path: &'static str, number: u32) -> Option<Bit> {
        let bits = match self.0.offset_of(structure, path, 1) {
            Ok(byte) => byte * 8,
            Err(_) => self.0.offset_of(structure, path, 0).ok()?,
        } + number;
        Some(Bit {
            byte: Field {
                offset: bits / 8,
                size: 1,
            },
            number: bits % 8,
        })
    }

    fn bit(&self, structure: &'static str, path: &'static str) -> Result<Bit, FieldError> {
        let bits = self.0.offset_of(structure, path, 0)?;
        Ok(Bit {
            byte: Field {
                offset: bits / 8,
                size: 1,
            },
            number: bits % 8,
        })
    }
}

macro_rules! layout {
    (
        $(#[$doc:meta])*
        $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $kind:ident $arguments:tt,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "what each is in the kernel stands beside it")]
        pub struct $name {
            $($(#[$field_doc])* pub $field: layout!(@type $kind),)+
        }

        impl $name {
            pub(super) fn find(fields: &Fields<'_>) -> Result<Self, FieldError> {
                Ok(Self { $($field: layout!(@find fields $kind $arguments),)+ })
            }

            /// One field behind the other, for tests.
            #[cfg(any(test, feature = "fuzzing"))]
            fn made_up(next: &mut u32) -> Self {
                Self { $($field: layout!(@made_up next $kind),)+ }
            }
        }
    };
    (@type one) => { Field };
    (@type any) => { Field };
    (@type bit) => { Bit };
    (@type maybe) => { Option<Field> };
    (@type flag) => { Option<Bit> };
    (@type member) => { bool };
    (@type size) => { u32 };
    (@made_up $next:ident size) => { 8 };
    (@made_up $next:ident member) => { false };
    (@made_up $next:ident flag) => { Some(Bit { byte: made_up_field($next), number: 3 }) };
    (@made_up $next:ident maybe) => { Some(made_up_field($next)) };
    (@made_up $next:ident bit) => { Bit { byte: made_up_field($next), number: 1 } };
    (@made_up $next:ident $kind:ident) => { made_up_field($next) };
    (@find $fields:ident maybe $arguments:tt) => { $fields.any $arguments.ok() };
    (@find $fields:ident flag $arguments:tt) => { $fields.flag $arguments };
    (@find $fields:ident $kind:ident $arguments:tt) => { $fields.$kind $arguments? };
}

layout! {
    /// `struct sock_common`, with which every kind of socket begins.
    CommonLayout {
        /// The node in the hash table of sockets, and of listeners since 5.19.
        node: one("sock_common", "skc_nulls_node", 16),
        /// What decides which bucket it is in.
        hash: one("sock_common", "skc_hash", 4),
        state: one("sock_common", "skc_state", 1),
        family: one("sock_common", "skc_family", 2),
        net: one("sock_common", "skc_net.net", 8),
        /// `struct proto`.
        protocol: one("sock_common", "skc_prot", 8),
        local_port: one("sock_common", "skc_num", 2),
        remote_port: one("sock_common", "skc_dport", 2),
        remote: one("sock_common", "skc_daddr", 4),
        local: one("sock_common", "skc_rcv_saddr", 4),
        remote6: one("sock_common", "skc_v6_daddr", 16),
        local6: one("sock_common", "skc_v6_rcv_saddr", 16),
    }
}

layout! {
    /// `struct tcp_sock`, and what it begins with.
    SockLayout {
        socket: one("sock", "sk_socket", 8),
        received_next: one("tcp_sock", "rcv_nxt", 4),
        copied: one("tcp_sock", "copied_seq", 4),
        written: one("tcp_sock", "write_seq", 4),
        unacknowledged: one("tcp_sock", "snd_una", 4),
        last_ack: one("tcp_sock", "rcv_tstamp", 4),
        /// When what is not acknowledged was sent first, milliseconds of `CLOCK_MONOTONIC`.
        first_sent: one("tcp_sock", "retrans_stamp", 4),
        retransmits: one("inet_connection_sock", "icsk_retransmits", 1),
        probes: one("inet_connection_sock", "icsk_probes_out", 1),
        accept_queue: one("sock", "sk_ack_backlog", 4),
        accept_limit: one("sock", "sk_max_ack_backlog", 4),
        /// `SOCK_BINDPORT_LOCK`: `bind()` has asked for this port.
        port_asked_for: flag("sock", "sk_userlocks", 3),
        drops: any("sock", &["sk_drops.counter"], &[4]),
        half_open: one("inet_connection_sock", "icsk_accept_queue.qlen.counter", 4),
        defer_accept: one("inet_connection_sock", "icsk_accept_queue.rskq_defer_accept", 1),
        /// A pointer since 5.15, and a word with two bits of its own before.
        cgroup: maybe("sock", &["sk_cgrp_data.cgroup", "sk_cgrp_data.val"], &[8]),
        /// The node in the table of listeners before 5.19.
        listen_node: maybe("inet_connection_sock", &["icsk_listen_portaddr_node"], &[16]),
    }
}

layout! {
    /// `struct tcp_timewait_sock`.
    TimewaitLayout {
        substate: one("inet_timewait_sock", "tw_substate", 1),
        recent: one("tcp_timewait_sock", "tw_ts_recent", 4),
    }
}

layout! {
    /// `struct tcp_request_sock`.
    RequestLayout {
        retransmits: one("request_sock", "num_retrans", 1),
        acked: bit("inet_request_sock", "acked"),
        sent: one("tcp_request_sock", "snt_synack", 8),
    }
}

layout! {
    /// `struct inet_bind_bucket`.
    BindLayout {
        node: one("inet_bind_bucket", "node", 16),
        net: one("inet_bind_bucket", "ib_net.net", 8),
        port: one("inet_bind_bucket", "port", 2),
        reuse: one("inet_bind_bucket", "fastreuse", 1),
    }
}

layout! {
    /// `struct inet_hashinfo`, and its buckets.
    HashLayout {
        sockets: one("inet_hashinfo", "ehash", 8),
        sockets_mask: one("inet_hashinfo", "ehash_mask", 4),
        listeners: one("inet_hashinfo", "lhash2", 8),
        listeners_mask: one("inet_hashinfo", "lhash2_mask", 4),
        bound: one("inet_hashinfo", "bhash", 8),
        bound_size: one("inet_hashinfo", "bhash_size", 4),
        socket_chain: one("inet_ehash_bucket", "chain", 8),
        listener_chain: any("inet_listen_hashbucket", &["nulls_head", "head"], &[8]),
        bound_chain: one("inet_bind_hashbucket", "chain", 8),
        /// Whether there is a table of listeners by their port alone. Until 5.19 they were in that by
        /// the node of all sockets, and in `listeners` by one of their own.
        has_listening_hash: member("inet_hashinfo", "listening_hash"),
        socket_stride: size("inet_ehash_bucket"),
        listener_stride: size("inet_listen_hashbucket"),
        bound_stride: size("inet_bind_hashbucket"),
    }
}

layout! {
    /// `struct net`.
    NetLayout {
        list: one("net", "list", 16),
        ops: one("net", "ns.ops", 8),
        inode: one("net", "ns.inum", 4),
        /// Since 5.12.
        cookie: maybe("net", &["net_cookie"], &[8]),
        hash_mix: one("net", "hash_mix", 4),
        tcp_mib: one("net", "mib.tcp_statistics", 8),
        linux_mib: one("net", "mib.net_statistics", 8),
        in_use: one("net", "core.prot_inuse", 8),
        hashinfo: one("net", "ipv4.tcp_death_row.hashinfo", 8),
        /// One more than there are minisockets since 5.19.
        timewait_references: maybe("net", &["ipv4.tcp_death_row.tw_refcount.refs.counter"], &[4]),
        timewait: maybe("net", &["ipv4.tcp_death_row.tw_count.counter"], &[4]),
        max_timewait: one("net", "ipv4.tcp_death_row.sysctl_max_tw_buckets", 4),
        port_range: any("net", &["ipv4.ip_local_ports.range"], &[4, 8]),
        reserved_ports: one("net", "ipv4.sysctl_local_reserved_ports", 8),
        tw_reuse: any("net", &["ipv4.sysctl_tcp_tw_reuse"], &[1, 4]),
        somaxconn: any("net", &["core.sysctl_somaxconn"], &[4]),
        max_syn_backlog: any("net", &["ipv4.sysctl_max_syn_backlog"], &[4]),
        syncookies: any("net", &["ipv4.sysctl_tcp_syncookies"], &[1, 4]),
        synack_retries: any("net", &["ipv4.sysctl_tcp_synack_retries"], &[1, 4]),
    }
}

layout! {
    /// `struct cgroup`, and its node in the tree of all.
    CgroupLayout {
        node: one("cgroup", "kn", 8),
        id: one("kernfs_node", "id", 8),
    }
}

layout! {
    /// What leads from the task that asks to its own namespace and to its sockets.
    TaskLayout {
        namespaces: one("task_struct", "nsproxy", 8),
        net: one("nsproxy", "net_ns", 8),
        files: one("task_struct", "files", 8),
        table: one("files_struct", "fdt", 8),
        descriptors: one("fdtable", "fd", 8),
        private: one("file", "private_data", 8),
        sock: one("socket", "sk", 8),
        in_use_index: one("proto", "inuse_idx", 4),
        in_use_values: any("prot_inuse", &["val"], &[256, 128, 512]),
        per_cpu: one("bpf_array", "pptrs", 0),
    }
}

/// Everything together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `struct sock_common`.
    pub common: CommonLayout,
    /// `struct tcp_sock`.
    pub sock: SockLayout,
    /// `struct tcp_timewait_sock`.
    pub timewait: TimewaitLayout,
    /// `struct tcp_request_sock`.
    pub request: RequestLayout,
    /// `struct inet_bind_bucket`.
    pub bind: BindLayout,
    /// `struct inet_hashinfo`.
    pub hash: HashLayout,
    /// `struct net`.
    pub net: NetLayout,
    /// `struct cgroup`.
    pub cgroup: CgroupLayout,
    /// `struct task_struct`.
    pub task: TaskLayout,
    /// Where each counter of `struct tcp_mib` and `struct linux_mib` is, by the kernel's name.
    pub mibs: BTreeMap<String, u32>,
}

/// A field of eight bytes behind the last one.
#[cfg(any(test, feature = "fuzzing"))]
fn made_up_field(next: &mut u32) -> Field {
    let offset = *next;
    *next += 8;
    Field { offset, size: 8 }
}

impl Layout {
    /// One in which every field has eight bytes, one behind the other in each struct.
    #[cfg(any(test, feature = "fuzzing"))]
    #[must_use]
    pub fn made_up() -> Self {
        Self {
            common: CommonLayout::made_up(&mut 0),
            sock: SockLayout::made_up(&mut 128),
            timewait: TimewaitLayout::made_up(&mut 128),
            request: RequestLayout::made_up(&mut 128),
            bind: BindLayout::made_up(&mut 0),
            hash: HashLayout::made_up(&mut 0),
            net: NetLayout::made_up(&mut 64),
            cgroup: CgroupLayout::made_up(&mut 0),
            task: TaskLayout::made_up(&mut 0),
            mibs: BTreeMap::new(),
        }
    }

    /// Looks everything up. The error names what is missing.
    pub fn find(btf: &KernelBtf) -> Result<Self, FieldError> {
        let fields = Fields(btf);
        Ok(Self {
            common: CommonLayout::find(&fields)?,
            sock: SockLayout::find(&fields)?,
            timewait: TimewaitLayout::find(&fields)?,
            request: RequestLayout::find(&fields)?,
            bind: BindLayout::find(&fields)?,
            hash: HashLayout::find(&fields)?,
            net: NetLayout::find(&fields)?,
            cgroup: CgroupLayout::find(&fields)?,
            task: TaskLayout::find(&fields)?,
            mibs: btf.enumerators(&["TCP_MIB_", "LINUX_MIB_", "__LINUX_MIB_MAX"]),
        })
    }
}
