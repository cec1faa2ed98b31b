//! An element of a map that the agent has in its own memory.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
};
use zerocopy::{FromBytes, IntoBytes};

/// The only element of an array that was made with `BPF_F_MMAPABLE` (Linux 5.5).
///
/// The programs that write it run only while the agent waits for them, so it is nobody else's
/// memory meanwhile: what runs them takes it as `&mut`.
pub(super) struct Mapped<T> {
    at: NonNull<T>,
    /// Keeps the map.
    _map: MapData,
}

// SAFETY: it is memory of the process that no thread owns, reached through one pointer.
unsafe impl<T: Send> Send for Mapped<T> {}

impl<T: FromBytes + IntoBytes> Mapped<T> {
    /// Takes the map called `name`.
    pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<Self, MapError> {
        let no_map = || MapError::InvalidName { name: name.into() };
        let Some(Map::Array(map)) = ebpf.take_map(name) else {
            return Err(no_map());
        };
        // SAFETY: no address is asked for, and the descriptor is open; the kernel refuses a length
        // that is greater than the map.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(MapError::IoError(io::Error::last_os_error()));
        }
        let at = NonNull::new(at.cast()).ok_or_else(no_map)?;
        Ok(Self { at, _map: map })
    }

    /// The element.
    pub(super) fn get(&self) -> &T {
        // SAFETY: the mapping is as long as `T`, aligned to a page, lives as long as `self`, and
        // any bytes are a `T`. Nobody writes it meanwhile, see the type.
        unsafe { self.at.as_ref() }
    }

    /// The element.
    pub(super) fn get_mut(&mut self) -> &mut T {
        // SAFETY: as above, and nobody else has it: `self` is borrowed for as long.
        unsafe { self.at.as_mut() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and nothing borrows from it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), size_of::<T>()) };
    }
}
