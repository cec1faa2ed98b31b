//! Where the kernel keeps what a walk over its processes reads.

use tcpstate_common::pass::{CgroupRequest, ChainRequest, NO_OFFSET, OwnerOffsets};

use super::super::kernel_btf::{FieldError, KernelBtf};
use crate::decode::{HeldLayout, References};

/// What `read_owners`, `read_chain` and `read_cgroup` have to be told, and what is needed to
/// understand their answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerLayout {
    pub(super) owners: OwnerOffsets,
    /// Only its offsets.
    pub(super) chain: ChainRequest,
    /// Only its offsets.
    pub(super) cgroup: CgroupRequest,
    pub(super) held: HeldLayout,
}

/// The controller whose cgroup counts too, on a host where containers are not in the unified
/// hierarchy. systemd and all container runtimes make cgroups of it.
const CONTROLLER: &str = "pids_cgrp_id";

/// `RLIMIT_NOFILE`, and how many limits there are.
const LIMIT_OF_FILES: u32 = 7;
const LIMITS: u32 = 16;
/// Bytes of a `struct rlimit`, and of the list nodes and pointers of the kernel.
const LIMIT: u32 = 16;
const LIST: u32 = 16;
const POINTER: u32 = 8;

/// A field by each of the names and sizes that it has had.
type Names = &'static [(&'static str, u32)];

impl OwnerLayout {
    /// Looks everything up. The error names what this kernel does not have.
    pub fn resolve(btf: &KernelBtf) -> Result<Self, FieldError> {
        let at = |structure: &'static str, names: Names| offset(btf, structure, names);
        let sock_state = at("sock_common", &[("skc_state", 1)])?;
        let sock_net = at("sock_common", &[("skc_net.net", POINTER)])?;
        let sock_port = at("sock_common", &[("skc_num", 2)])?;
        let node_id = at("kernfs_node", &[("id", 8)])?;
        let reference = at("file", &[("f_ref", 8)]);
        let (file_references, references) = match reference {
            Ok(offset) => (offset, References::FromZero),
            Err(_) => (at("file", &[("f_count", 8)])?, References::FromOne),
        };
        let owners = OwnerOffsets {
            task_list: at("task_struct", &[("tasks", LIST)])?,
            task_tgid: at("task_struct", &[("tgid", 4)])?,
            task_start: at("task_struct", &[("start_boottime", 8)])?,
            task_leader: at("task_struct", &[("group_leader", POINTER)])?,
            task_flags: at("task_struct", &[("flags", 4)])?,
            task_files: at("task_struct", &[("files", POINTER)])?,
            task_signal: at("task_struct", &[("signal", POINTER)])?,
            task_thread: at("task_struct", &[("thread_node", LIST)])?,
            task_comm: at("task_struct", &[("comm", 16)])?,
            // A word, and called otherwise, before Linux 5.14.
            task_state: at("task_struct", &[("__state", 4), ("state", 8)])?,
            task_cgroups: at("task_struct", &[("cgroups", POINTER)])?,
            signal_threads: at("signal_struct", &[("thread_head", LIST)])?,
            signal_limit: at("signal_struct", &[("rlim", LIMITS * LIMIT)])?
                + LIMIT_OF_FILES * LIMIT,
            files_table: at("files_struct", &[("fdt", POINTER)])?,
            table_length: at("fdtable", &[("max_fds", 4)])?,
            table_slots: at("fdtable", &[("fd", POINTER)])?,
            file_operations: at("file", &[("f_op", POINTER)])?,
            file_private: at("file", &[("private_data", POINTER)])?,
            file_references,
            socket_sock: at("socket", &[("sk", POINTER)])?,
            sock_family: at("sock_common", &[("skc_family", 2)])?,
            sock_operations: at("sock_common", &[("skc_prot", POINTER)])?,
            padding: 0,
            sock_net,
            sock_protocol: at("sock", &[("sk_protocol", 2)])?,
            // Where the kernel has Multipath TCP.
            first_subflow: at("mptcp_sock", &[("first", POINTER)]).unwrap_or(NO_OFFSET),
            net_inode: at("net", &[("ns.inum", 4)])?,
            cgroups_unified: at("css_set", &[("dfl_cgrp", POINTER)])?,
            cgroups_pids: controller(btf).unwrap_or(NO_OFFSET),
            controller_cgroup: at("cgroup_subsys_state", &[("cgroup", POINTER)])?,
            cgroup_node: at("cgroup", &[("kn", POINTER)])?,
            node_id,
        };
        let chain = ChainRequest {
            sock_state,
            sock_port,
            sock_net,
            sock_queue: at(
                "inet_connection_sock",
                &[("icsk_accept_queue.rskq_accept_head", POINTER)],
            )?,
            request_listener: at("sock_common", &[("skc_listener", POINTER)])?,
            request_child: at("request_sock", &[("sk", POINTER)])?,
            request_next: at("request_sock", &[("dl_next", POINTER)])?,
            ..ChainRequest::default()
        };
        let cgroup = CgroupRequest {
            node_id,
            node_count: at("kernfs_node", &[("count.counter", 4)])?,
            node_name: at("kernfs_node", &[("name", POINTER)])?,
            // Renamed in Linux 6.15.
            node_parent: at("kernfs_node", &[("__parent", POINTER), ("parent", POINTER)])?,
            ..CgroupRequest::default()
        };
        let held = HeldLayout {
            state: sock_state,
            family: owners.sock_family,
            net: sock_net,
            local_port: sock_port,
            remote_port: at("sock_common", &[("skc_dport", 2)])?,
            remote_ipv4: at("sock_common", &[("skc_daddr", 4)])?,
            remote_ipv6: at("sock_common", &[("skc_v6_daddr", 16)])?,
            received: at("tcp_sock", &[("rcv_nxt", 4)])?,
            read: at("tcp_sock", &[("copied_seq", 4)])?,
            written: at("tcp_sock", &[("write_seq", 4)])?,
            acknowledged: at("tcp_sock", &[("snd_una", 4)])?,
            last_ack: at("tcp_sock", &[("rcv_tstamp", 4)])?,
            last_data: at("inet_connection_sock", &[("icsk_ack.lrcvtime", 4)])?,
            last_sent: at("tcp_sock", &[("lsndtime", 4)])?,
            accept_queue: at("sock", &[("sk_ack_backlog", 4)])?,
            references,
        };
        Ok(Self {
            owners,
            chain,
            cgroup,
            held,
        })
    }
}

fn offset(btf: &KernelBtf, structure: &'static str, names: Names) -> Result<u32, FieldError> {
    let (offset, _) = btf.first_of(structure, names.iter().copied())?;
    Ok(offset)
}

/// Where in a `struct css_set` the state of [`CONTROLLER`] is.
fn controller(btf: &KernelBtf) -> Option<u32> {
    let controllers = btf.enum_values("cgroup_subsys_id");
    let place = controllers.iter().position(|name| name == CONTROLLER)?;
    let bytes = |elements: usize| u32::try_from(elements).ok()?.checked_mul(POINTER);
    let all = btf.offset_of("css_set", "subsys", bytes(controllers.len())?);
    Some(all.ok()? + bytes(place)?)
}
