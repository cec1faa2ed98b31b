//! Bytes of a struct, copied at once: a call of the helper costs more than what it copies.

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};

use super::read_at;

/// Words of a cache line.
pub(super) const CACHE_LINE: usize = 8;

/// The first `WORDS` words of the struct at `base`.
pub(super) struct Block<const WORDS: usize = CACHE_LINE> {
    base: *const u8,
    /// Words, so that fields are aligned as they are in the struct.
    words: [u64; WORDS],
}

impl<const WORDS: usize> Block<WORDS> {
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
        self.at_byte(offset.load() as usize)
    }

    #[inline(always)]
    fn at_byte<T: Copy>(&self, place: usize) -> Option<T> {
        if place > size_of::<[u64; WORDS]>() - size_of::<T>() {
            return read_at(self.base.wrapping_add(place));
        }
        let from = self.words.as_ptr().cast::<u8>().wrapping_add(place);
        // SAFETY: the field lies within the words, see above, and is aligned there as it is in
        // the struct. `T` is an integer in every use, for which any bytes will do. Volatile keeps
        // it one load, which is what the verifier wants of its stack.
        Some(unsafe { from.cast::<T>().read_volatile() })
    }
}

/// `WORDS` words of a struct, from the one on that holds a given field.
pub(super) struct Part<const WORDS: usize> {
    start: usize,
    block: Block<WORDS>,
}

impl<const WORDS: usize> Part<WORDS> {
    /// Copies them, if they can be read.
    #[inline(always)]
    pub(super) fn from(base: *const u8, first: &Global<u32>) -> Option<Self> {
        let offset = first.load() as usize;
        let start = offset - offset % size_of::<u64>();
        let block = Block::at(base.wrapping_add(start))?;
        Some(Self { start, block })
    }

    /// As [`Block::field`].
    #[inline(always)]
    pub(super) fn field<T: Copy>(&self, offset: &Global<u32>) -> Option<T> {
        self.block
            .at_byte((offset.load() as usize).wrapping_sub(self.start))
    }
}
