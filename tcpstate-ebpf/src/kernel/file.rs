//! Open files.

use super::{
    BareSock, FILE_COUNT, FILE_INODE, FILE_PRIVATE, FILE_REF, INODE_MODE, MISSING, SOCKET_FILE,
    SOCKET_SK,
    block::{Block, CACHE_LINE},
    load,
};

/// `S_IFMT` and `S_IFSOCK`, the part of a mode that tells the type, and the type "socket".
const TYPE_MASK: u16 = 0o170_000;
const TYPE_SOCKET: u16 = 0o140_000;

/// A `struct file` that the kernel handed to the program.
#[derive(Clone, Copy)]
pub(crate) struct File(*const u8);

impl File {
    /// # Safety
    ///
    /// `file` must be a `struct file *` that the verifier knows by its BTF type and as not null.
    #[inline(always)]
    pub(crate) unsafe fn new(file: *const u8) -> Self {
        Self(file)
    }

    /// The socket that it is, if it is one. By hand, because `bpf_sock_from_file` came only with
    /// 5.11.
    #[inline(always)]
    pub(crate) fn socket(self) -> Option<BareSock> {
        // SAFETY: `self.0` is a BTF pointer, see `new`; so is the inode, which a file never lacks.
        let inode: *const u8 = unsafe { load(self.0, &FILE_INODE) };
        // SAFETY: see above.
        let mode: u16 = unsafe { load(inode, &INODE_MODE) };
        if mode & TYPE_MASK != TYPE_SOCKET {
            return None;
        }
        // SAFETY: `self.0` is a BTF pointer, see `new`; what is loaded is a number.
        let socket: u64 = unsafe { load(self.0, &FILE_PRIVATE) };
        let socket = Block::<CACHE_LINE>::at(socket as *const u8)?;
        // Something else than a socket could call itself one; a socket knows its file.
        let file: u64 = socket.field(&SOCKET_FILE)?;
        if file != self.0 as u64 {
            return None;
        }
        Some(BareSock::at(socket.field(&SOCKET_SK)?))
    }

    /// Whether something else may refer to it besides one descriptor and the iterator.
    #[inline(always)]
    pub(crate) fn is_shared(self) -> bool {
        if FILE_REF.load() != MISSING {
            // SAFETY: `self.0` is a BTF pointer, see `new`.
            let references: u64 = unsafe { load(self.0, &FILE_REF) };
            // `FILE_REF_ONEREF` is 0: it counts from there.
            references > 1
        } else if FILE_COUNT.load() != MISSING {
            // SAFETY: `self.0` is a BTF pointer, see `new`.
            let references: u64 = unsafe { load(self.0, &FILE_COUNT) };
            references > 2
        } else {
            true
        }
    }
}
