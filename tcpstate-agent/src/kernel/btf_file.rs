//! The bytes of the kernel's type information: mapped where the kernel allows it (Linux 6.16), which
//! takes no memory, else read.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    ptr::NonNull,
    slice,
};

use rustix::fs::fstatfs;

/// What `statfs` says of a file that the kernel itself publishes in `/sys`.
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// The whole file.
pub(super) enum BtfFile {
    Mapped(Mapping),
    Read(Vec<u8>),
}

impl BtfFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match Mapping::of(&File::open(path)?) {
            Some(mapping) => Ok(Self::Mapped(mapping)),
            None => fs::read(path).map(Self::Read),
        }
    }
}

impl AsRef<[u8]> for BtfFile {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping.bytes(),
            Self::Read(bytes) => bytes,
        }
    }
}

/// A file that nobody can change, in the memory of the kernel.
pub(super) struct Mapping {
    at: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// `None` where the kernel maps no such file, or it is not the kernel's own: anybody else's may
    /// change or become shorter meanwhile.
    fn of(file: &File) -> Option<Self> {
        let file_system = u64::try_from(fstatfs(file).ok()?.f_type).ok()?;
        let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
        if file_system != SYSFS_MAGIC || length == 0 {
            return None;
        }
        // SAFETY: no address is asked for, the descriptor is open, and the length is not 0.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return None;
        }
        let at = NonNull::new(at.cast())?;
        Some(Self { at, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped there until `self` is dropped. They are in the kernel's
        // image, which it never changes: a file of sysfs, as `of` has checked, that it publishes
        // read-only and of one length.
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and nothing borrows from it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.length) };
    }
}
