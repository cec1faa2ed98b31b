//! What an iterator writes to.

use aya_ebpf::helpers::generated::bpf_seq_write;
use zerocopy::{Immutable, IntoBytes};

use super::{SEQ_FILE, load};

/// The `struct seq_file` that the agent reads from.
#[derive(Clone, Copy)]
pub(crate) struct SeqFile(*const u8);

/// What a record could not do: the kernel's buffer is full. The kernel then empties it and calls
/// the program again for the same object, so nothing is lost, but nothing may have been counted.
pub(crate) struct BufferFull;

impl SeqFile {
    /// The file of an iterator whose context is `ctx`: its first member is `meta`, in every one.
    ///
    /// # Safety
    ///
    /// `ctx` must be the context that the kernel called an iterator program with.
    #[inline(always)]
    pub(crate) unsafe fn of(ctx: *const *const u8) -> Self {
        // SAFETY: by the function's own condition; the kernel never leaves `meta` null.
        let meta = unsafe { ctx.read_volatile() };
        // SAFETY: `meta` is a `struct bpf_iter_meta *` that the verifier knows.
        Self(unsafe { load(meta, &SEQ_FILE) })
    }

    /// Writes the bytes of `record`.
    #[inline(always)]
    pub(crate) fn write<T: IntoBytes + Immutable>(self, record: &T) -> Result<(), BufferFull> {
        let bytes = record.as_bytes();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a record fits on a stack of 512 bytes"
        )]
        let length = size_of::<T>() as u32;
        // SAFETY: `self.0` is the iterator's `struct seq_file *`, and the helper copies as many
        // bytes as `record` has.
        let result = unsafe {
            bpf_seq_write(
                self.0.cast_mut().cast(),
                bytes.as_ptr().cast_mut().cast(),
                length,
            )
        };
        if result == 0 { Ok(()) } else { Err(BufferFull) }
    }
}
