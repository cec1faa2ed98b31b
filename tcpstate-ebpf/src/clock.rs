//! The kernel's two clocks.

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64};

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
    // SAFETY: the helper takes no argument and cannot fail.
    unsafe { bpf_jiffies64() as u32 }
}
