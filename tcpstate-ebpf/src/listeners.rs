//! The listening sockets that are known, and `iter/bpf_map_elem`: the queues of all of them, of
//! every network namespace, without a walk over other sockets.
//!
//! A socket is known from the transition to LISTEN on, or from the first pass that meets it.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    macros::map,
    maps::HashMap,
};
use tcpstate_common::{ListenerCounters, ListenerRecord, MAX_LISTENERS};

use crate::{
    clock,
    kernel::{BareSock, SeqFile},
};

#[map]
static LISTENERS: HashMap<u64, ListenerCounters> = HashMap::with_max_entries(MAX_LISTENERS, 0);

/// Where `struct bpf_iter__bpf_map_elem` has its members: `meta`, `map`, `key` and `value`, each
/// in 8 bytes ([`kernel/bpf/map_iter.c`]).
///
/// [`kernel/bpf/map_iter.c`]: https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/map_iter.c
const KEY: usize = 2;
const VALUE: usize = 3;

/// A socket begins to listen.
#[inline(always)]
pub(crate) fn begin(socket: u64) {
    // Where there is no room, a pass tries again.
    let counters = ListenerCounters {
        begun_ns: clock::monotonic_ns(),
        drops_before: BareSock::at(socket).drops().unwrap_or(0),
        ..ListenerCounters::default()
    };
    let _ = LISTENERS.insert(socket, counters, u64::from(BPF_ANY));
}

/// A socket is found listening.
#[inline(always)]
pub(crate) fn know(socket: u64) {
    if LISTENERS.get_ptr(socket).is_none() {
        // As above.
        let _ = LISTENERS.insert(socket, ListenerCounters::default(), u64::from(BPF_NOEXIST));
    }
}

/// A socket listens no more.
#[inline(always)]
pub(crate) fn end(socket: u64) {
    // It need not be known.
    let _ = LISTENERS.remove(socket);
}

/// The counters of a socket, if it is known.
#[inline(always)]
pub(crate) fn counters(socket: u64) -> Option<*mut ListenerCounters> {
    LISTENERS.get_ptr_mut(socket)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
extern "C" fn tcp_listeners(ctx: *const *const u8) -> i32 {
    // SAFETY: the kernel calls the program with a context that has these members. Each is loaded
    // once: to the verifier a second load would be another pointer that may be null.
    let key = unsafe { ctx.wrapping_add(KEY).read_volatile() };
    // SAFETY: see above.
    let value = unsafe { ctx.wrapping_add(VALUE).read_volatile() };
    if key.is_null() || value.is_null() {
        return 0;
    }
    #[expect(clippy::cast_ptr_alignment, reason = "maps align keys to 8 bytes")]
    // SAFETY: the agent gives the iterator the map above, whose keys have this type.
    let socket = unsafe { key.cast::<u64>().read_volatile() };
    #[expect(clippy::cast_ptr_alignment, reason = "maps align values to 8 bytes")]
    // SAFETY: as above, for its values.
    let counters = unsafe { value.cast::<ListenerCounters>().read_volatile() };
    // One that cannot be read is none that listens: its state is 0.
    let mut record = BareSock::at(socket).listener().unwrap_or(ListenerRecord {
        socket,
        ..ListenerRecord::default()
    });
    record.synack_retransmits = counters.synack_retransmits;
    record.begun_ns = counters.begun_ns;
    record.drops = record.drops.wrapping_sub(counters.drops_before);
    // SAFETY: `ctx` is what the kernel calls an iterator program with.
    let to = unsafe { SeqFile::of(ctx) };
    // Where it does not fit, the kernel calls again for this element.
    let _ = to.write(&record);
    0
}
