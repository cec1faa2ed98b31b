//! `read_cgroup`: the names from a cgroup up to the root of its hierarchy.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, macros::map, maps::Array};
use tcpstate_common::pass::{CGROUP_NAME_BYTES, Cgroup, MAX_CGROUP_DEPTH};

use crate::{
    MMAPABLE,
    memory::{half_word, word},
};

#[map]
static CGROUP: Array<Cgroup> = Array::with_max_entries(1, MMAPABLE);

macro_rules! cgroup {
    () => {
        match CGROUP.get_ptr_mut(0) {
            // SAFETY: the map gave a valid element; the agent lets one run follow the other.
            Some(cgroup) => unsafe { &mut *cgroup },
            None => return DONE,
        }
    };
}

const MORE: u64 = 0;
const DONE: u64 = 1;

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn read_cgroup(_ctx: *const u64) -> u64 {
    let cgroup = cgroup!();
    cgroup.depth = 0;
    cgroup.is_whole = 0;
    cgroup.next = cgroup.request.node;
    if !is_there(cgroup) {
        return DONE;
    }
    for _ in 0..=MAX_CGROUP_DEPTH {
        if cgroup_level() == DONE {
            break;
        }
    }
    // A cgroup keeps those above it.
    if cgroup.is_whole != 0 && !is_there(cgroup) {
        cgroup.is_whole = 0;
    }
    MORE
}

/// Takes one name, and goes up.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cgroup_level() -> u64 {
    let cgroup = cgroup!();
    let node = cgroup.next;
    let Some(parent) = word(node + u64::from(cgroup.request.node_parent)) else {
        return DONE;
    };
    // The root has no name.
    if parent == 0 {
        cgroup.is_whole = 1;
        return DONE;
    }
    let depth = cgroup.depth as usize;
    if depth >= MAX_CGROUP_DEPTH {
        return DONE;
    }
    let name = word(node + u64::from(cgroup.request.node_name)).unwrap_or(0);
    let to = cgroup.names[depth].as_mut_ptr();
    // SAFETY: there is room for so many bytes; the helper checks the address in the kernel.
    let length =
        unsafe { bpf_probe_read_kernel_str(to.cast(), CGROUP_NAME_BYTES as u32, name as *const _) };
    if length <= 0 {
        return DONE;
    }
    cgroup.depth = depth as u32 + 1;
    cgroup.next = parent;
    MORE
}

/// Whether the node is the wanted one, and in use.
#[inline(always)]
fn is_there(cgroup: &Cgroup) -> bool {
    let request = &cgroup.request;
    word(request.node + u64::from(request.node_id)) == Some(request.id)
        && half_word(request.node + u64::from(request.node_count)).unwrap_or(0) != 0
}
