//! What the verifier has to be shown and the compiler must not know, each as one instruction.
//!
//! [`core::hint::black_box`] would do, but takes the number through memory.
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "an instruction on one register")
)]

#[cfg(target_arch = "bpf")]
use core::arch::asm;

/// `number`, which is below `SIZE`, a power of two, as an index. The mask is for the verifier: the
/// compiler, which may know that it changes nothing, would drop it.
#[inline(always)]
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the mask is made of a size"
)]
pub(crate) fn masked<const SIZE: usize>(number: u64) -> usize {
    const { assert!(SIZE.is_power_of_two()) }
    #[cfg(target_arch = "bpf")]
    let number = {
        let mut number = number;
        // SAFETY: it changes a register that is its own, and nothing else.
        unsafe {
            asm!(
                "{0} &= {1}",
                inout(reg) number,
                const SIZE - 1,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        number
    };
    number as usize & (SIZE - 1)
}

/// The same number, of which the compiler does not know any more how large it can be.
#[inline(always)]
#[must_use]
pub(crate) fn opaque(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let number = {
        let mut number = number;
        // SAFETY: it copies a register to itself.
        unsafe {
            asm!(
                "{0} = {0}",
                inout(reg) number,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        number
    };
    number
}
