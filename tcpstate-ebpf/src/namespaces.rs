//! The live counters: what happened to the sockets of each network namespace.
//!
//! The agent gives each namespace that it finds an element of `LIVE`, before it counts the
//! namespace for the first time. One that the agent has not found yet is in `NAMESPACES` without an
//! element, until it has.
//!
//! A hash lookup costs more than all else that a transition needs together, so each CPU
//! remembers where it found the counters of the last namespaces. What it remembers need not be
//! true: an element says whose it is.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use tcpstate_common::{CpuCounters, NamespaceCounters};

/// Namespaces that can be known at once: 4,096 at most with live counters, and as many without.
const MAX_NAMESPACES: u32 = 2 * 4096;

#[map]
static NAMESPACES: HashMap<u32, u32> = HashMap::with_max_entries(MAX_NAMESPACES, 0);

#[map]
static LIVE: PerCpuArray<NamespaceCounters> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's counters of `namespace`, if it has some.
#[inline(always)]
pub(crate) fn of(
    remembered: &mut [u32; CpuCounters::REMEMBERED],
    namespace: u32,
) -> Option<*mut NamespaceCounters> {
    let remembered = &mut remembered[namespace as usize & (CpuCounters::REMEMBERED - 1)];
    if let Some(counters) = counters_of(namespace, *remembered) {
        return Some(counters);
    }
    let slot = look_up(namespace)?;
    *remembered = slot;
    counters_of(namespace, slot)
}

/// The element `slot`, if it is that of `namespace`.
#[inline(always)]
fn counters_of(namespace: u32, slot: u32) -> Option<*mut NamespaceCounters> {
    let counters = LIVE.get_ptr_mut(slot)?;
    // SAFETY: the map gave a valid element; the agent writes this field only while the element
    // belongs to no namespace that lives.
    (unsafe { (*counters).namespace } == namespace).then_some(counters)
}

#[inline(always)]
fn look_up(namespace: u32) -> Option<u32> {
    // SAFETY: the element is copied at once; elements of a preallocated map may be reused but
    // stay readable.
    if let Some(slot) = unsafe { NAMESPACES.get(namespace) } {
        return Some(*slot);
    }
    let no_slot = NamespaceCounters::NO_SLOT;
    // Fails where there is no room, or another CPU was first.
    let _ = NAMESPACES.insert(namespace, no_slot, u64::from(BPF_NOEXIST));
    None
}
