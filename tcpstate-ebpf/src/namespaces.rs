//! The live counters: what happened to the sockets of each network namespace.
//!
//! The agent gives each namespace that it finds an element of `LIVE`, before it counts the
//! namespace for the first time: the one that the place of its `struct net` in memory names, where
//! that is free, and else another, which `SLOTS` tells. So one comparison finds the counters of
//! nearly every namespace, and nothing of the `struct net` is read. An element says whose it is.
//!
//! One that the agent has not found yet is counted in `YOUNG`, so that nothing is missing when it
//! does.
//!
//! A namespace may be gone, and another lie in its place, before the agent notices: what it notices
//! is that the kernel's cookie of the place is another one, and then it counts anew.

use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{HashMap, PerCpuArray, PerCpuHashMap},
};
use tcpstate_common::NamespaceCounters;

/// Namespaces that can have live counters at once.
const MAX_NAMESPACES: u32 = 4096;

#[map]
static LIVE: PerCpuArray<NamespaceCounters> = PerCpuArray::with_max_entries(1, 0);

/// How many elements that has.
#[unsafe(no_mangle)]
static LIVE_SLOTS: Global<u32> = Global::new(1);

/// The elements of those namespaces that are not where they belong.
#[map]
static SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_NAMESPACES, 0);

/// Namespaces that can begin to count before the agent has found them.
const MAX_YOUNG: u32 = 64;

#[map]
static YOUNG: PerCpuHashMap<u64, NamespaceCounters> = PerCpuHashMap::with_max_entries(MAX_YOUNG, 0);

/// What those begin with.
static NOTHING: NamespaceCounters = NamespaceCounters::ZERO;

/// This CPU's counters of the namespace with this key, if there is room for some.
#[inline(always)]
pub(crate) fn of(net: u64) -> Option<*mut NamespaceCounters> {
    let home = NamespaceCounters::home(net, LIVE_SLOTS.load());
    counters_of(net, home)
        .or_else(|| counters_of(net, elsewhere(net)))
        .or_else(|| young(net))
}

/// The element `slot`, if it is that of `net`.
#[inline(always)]
fn counters_of(net: u64, slot: u32) -> Option<*mut NamespaceCounters> {
    let counters = LIVE.get_ptr_mut(slot)?;
    // SAFETY: the map gave a valid element; the agent writes this field only while the element
    // belongs to no namespace that lives.
    (unsafe { (*counters).net } == net).then_some(counters)
}

/// The element of a namespace that is not where it belongs; none has the number that stands for none.
#[inline(never)]
fn elsewhere(net: u64) -> u32 {
    // SAFETY: the element is copied at once; elements of a preallocated map may be reused but
    // stay readable.
    unsafe { SLOTS.get(net) }.copied().unwrap_or(u32::MAX)
}

/// The counters of a namespace that the agent has not found yet.
#[inline(never)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a copy would take half of the stack"
)]
fn young(net: u64) -> Option<*mut NamespaceCounters> {
    if let Some(counters) = YOUNG.get_ptr_mut(net) {
        return Some(counters);
    }
    // Where another CPU was faster, that is as good.
    let _ = YOUNG.insert(net, &NOTHING, u64::from(BPF_NOEXIST));
    YOUNG.get_ptr_mut(net)
}
