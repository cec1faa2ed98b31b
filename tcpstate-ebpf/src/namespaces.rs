//! The live counters: what happened to the sockets of each network namespace.
//!
//! A namespace's element is made by its first transition, or by the agent when it discovers the
//! namespace, whichever comes first; the agent removes it when the namespace is gone. Elements
//! are allocated one by one, so that memory follows the namespaces there are.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::PerCpuHashMap,
};
use tcpstate_common::NamespaceCounters;

/// More namespaces than that are counted as untracked; they are then known from snapshots only.
const MAX_NAMESPACES: u32 = 4096;

#[map]
static NAMESPACES: PerCpuHashMap<u32, NamespaceCounters> =
    PerCpuHashMap::with_max_entries(MAX_NAMESPACES, BPF_F_NO_PREALLOC);

static ZERO: NamespaceCounters = NamespaceCounters {
    flow: [[tcpstate_common::StateFlow {
        entered: 0,
        left: 0,
    }; tcpstate_common::STATE_SLOTS]; 2],
    to_time_wait: [0; 2],
    to_fin_wait2_mini: [0; 2],
};

/// Lets `count` add to the counters of `namespace`; `false` where it has none and there is no
/// room for them.
#[inline(always)]
pub(crate) fn update(namespace: u32, count: impl FnOnce(&mut NamespaceCounters)) -> bool {
    let counters = match NAMESPACES.get_ptr_mut(&namespace) {
        Some(counters) => counters,
        None => {
            // Another CPU may make it at the same time: then the one that is there is used.
            let _ = NAMESPACES.insert(&namespace, &ZERO, u64::from(BPF_NOEXIST));
            match NAMESPACES.get_ptr_mut(&namespace) {
                Some(counters) => counters,
                None => return false,
            }
        }
    };
    // SAFETY: the map gave this CPU's copy of the element, which no other CPU writes; it stays
    // allocated for as long as the program runs, even when the agent removes it meanwhile.
    count(unsafe { &mut *counters });
    true
}
