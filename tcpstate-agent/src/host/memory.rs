//! What the allocator keeps for later.

/// Has all threads allocate from one heap, to be called before there are others than the first. glibc
/// gives each a heap of its own otherwise, and of those it never gives back the end, which after a
/// peak is most of what the agent has: 16 MiB of 58, where 2 are in use.
pub(crate) fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers, and no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

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
