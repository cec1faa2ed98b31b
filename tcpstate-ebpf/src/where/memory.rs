//! Reads of the kernel's and of the watched process's memory, which check every address and fail
//! instead of faulting.

use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, bpf_probe_read_user},
};

/// The `T` that lies `offset` bytes behind the kernel's `base`. `T` is an integer or an array of
/// such in every use.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: &Global<u32>) -> Option<T> {
    read_at(base.wrapping_add(u64::from(offset.load())))
}

/// The `T` at an address of the kernel.
#[inline(always)]
pub(crate) fn read_at<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails instead of faulting. Any bytes will do for
    // an integer.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// The `T` at an address of the process that runs.
#[inline(always)]
pub(crate) fn read_user<T>(address: u64) -> Option<T> {
    // SAFETY: as above.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
