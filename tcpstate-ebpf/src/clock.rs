//! The kernel's two clocks, for telling how long a jiffy is, which depends on the kernel's build.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64},
    macros::map,
    maps::Array,
};
use tcpstate_common::ClockSample;

#[map]
static CLOCK: Array<ClockSample> = Array::with_max_entries(1, 0);

/// `CLOCK_MONOTONIC`, nanoseconds.
#[inline(always)]
pub(crate) fn monotonic_ns() -> u64 {
    // SAFETY: the helper takes no argument and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// The lower half of `jiffies_64`, which is what sockets store.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "it is the lower half that counts"
)]
pub(crate) fn jiffies() -> u32 {
    jiffies_64() as u32
}

#[inline(always)]
fn jiffies_64() -> u64 {
    // SAFETY: the helper takes no argument and cannot fail.
    unsafe { bpf_jiffies64() }
}

/// Writes down what both clocks say.
#[inline(always)]
pub(crate) fn sample() {
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        let now = ClockSample {
            monotonic_ns: monotonic_ns(),
            jiffies: jiffies_64(),
        };
        // SAFETY: the map gave a valid element; only one pass runs at a time.
        unsafe { *clock = now };
    }
}
