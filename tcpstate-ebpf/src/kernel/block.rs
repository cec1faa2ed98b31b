//! The first bytes of a struct, copied at once: a call of the helper costs more than what it
//! copies.

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};

use super::read;

/// A cache line.
const BYTES: usize = 64;

/// The first cache line of the struct at `base`.
pub(super) struct Block {
    base: *const u8,
    /// Words, so that fields are aligned as they are in the struct.
    words: [u64; BYTES / 8],
}

impl Block {
    /// Copies it, if it can be read.
    #[inline(always)]
    pub(super) fn at(base: *const u8) -> Option<Self> {
        // SAFETY: the helper checks the address and fails instead of faulting.
        let words = unsafe { bpf_probe_read_kernel(base.cast()) }.ok()?;
        Some(Self { base, words })
    }

    /// The field that lies `offset` bytes into the struct, copied on its own where it lies
    /// further back. Which of the two, the verifier knows: the offset is a constant to it.
    #[inline(always)]
    pub(super) fn field<T: Copy>(&self, offset: &Global<u32>) -> Option<T> {
        let place = offset.load() as usize;
        if place > BYTES - size_of::<T>() {
            return read(self.base, offset);
        }
        let from = self.words.as_ptr().cast::<u8>().wrapping_add(place);
        // SAFETY: the field lies within the words, see above, and is aligned there as it is in
        // the struct. `T` is an integer in every use, for which any bytes will do. Volatile keeps
        // it one load, which is what the verifier wants of its stack.
        Some(unsafe { from.cast::<T>().read_volatile() })
    }
}
