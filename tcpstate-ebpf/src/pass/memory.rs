//! Copies of the kernel's memory, at addresses that are numbers to the verifier.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// Copies `bytes` bytes. `false` where they cannot be read; then they are zeros.
///
/// # Safety
///
/// There must be room for them at `to`.
#[inline(always)]
pub(crate) unsafe fn copy<T>(to: *mut T, bytes: u32, from: u64) -> bool {
    // SAFETY: by the function's own condition; the helper checks the address in the kernel and
    // fails instead of faulting.
    unsafe { bpf_probe_read_kernel(to.cast(), bytes, from as *const _) == 0 }
}

/// The word at an address, if it can be read.
#[inline(always)]
pub(crate) fn word(from: u64) -> Option<u64> {
    let mut word = 0_u64;
    // SAFETY: there is room for it.
    unsafe { copy(&raw mut word, 8, from) }.then_some(word)
}

/// The word at an address, 0 where it cannot be read.
#[inline(always)]
pub(crate) fn word_or_zero(from: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: there is room for it.
    unsafe { copy(&raw mut word, 8, from) };
    word
}

/// The half word at an address, if it can be read.
#[inline(always)]
pub(crate) fn half_word(from: u64) -> Option<u32> {
    let mut half = 0_u32;
    // SAFETY: there is room for it.
    unsafe { copy(&raw mut half, 4, from) }.then_some(half)
}

/// The same number, of which the compiler and the verifier know nothing any more.
#[inline(always)]
pub(crate) fn opaque(mut number: u64) -> u64 {
    // SAFETY: it copies a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) number) };
    number
}

/// Reads from the first two cache lines of an object that begins with one, for nothing but to have
/// them at hand: such a read is so short that the next one begins before it has ended.
#[inline(always)]
pub(crate) fn fetch_lines(object: u64) {
    // Eight bytes, half of them in the one and half in the other.
    word_or_zero(object.wrapping_add(60));
}
