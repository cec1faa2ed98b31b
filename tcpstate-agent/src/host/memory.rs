//! What the allocator keeps for later.

/// Gives back to the kernel what the allocator holds and nobody uses. After a peak that may be many
/// times what is in use: glibc gives back the end of its heap only, and one small allocation there
/// is enough to keep all that is before it. Takes a millisecond.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number and no pointer, and may be called by any thread at any time; the
    // memory that it gives back is in no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
