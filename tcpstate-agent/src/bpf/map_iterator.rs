//! Opening an iterator over the elements of one map, which the BPF library does not do: it cannot
//! say which map ([`link_create()` of the kernel][link]).
//!
//! [link]: https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use super::syscall::{BPF_ITER_CREATE, BPF_LINK_CREATE, bpf, size_of_u32};

/// `enum bpf_attach_type`.
const BPF_TRACE_ITER: u32 = 28;

/// The part of `union bpf_attr` that creates a link to an iterator.
#[repr(C)]
struct LinkCreate {
    program: i32,
    target: u32,
    attach_type: u32,
    flags: u32,
    iterator: u64,
    iterator_bytes: u32,
    padding: u32,
}

/// `union bpf_iter_link_info`.
#[repr(C)]
struct IteratorInfo {
    map: i32,
}

/// The part of `union bpf_attr` that creates an iterator from a link.
#[repr(C)]
struct IteratorCreate {
    link: i32,
    flags: u32,
}

/// A link between a program and a map. Each file that is opened is one walk over the elements.
#[derive(Debug)]
pub(super) struct MapIterator(OwnedFd);

impl MapIterator {
    /// Links `program`, which has to be a loaded `iter/bpf_map_elem`, to `map`.
    pub(super) fn attach(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<Self> {
        let info = IteratorInfo {
            map: map.as_raw_fd(),
        };
        let attributes = LinkCreate {
            program: program.as_raw_fd(),
            target: 0,
            attach_type: BPF_TRACE_ITER,
            flags: 0,
            iterator: (&raw const info) as u64,
            iterator_bytes: size_of_u32::<IteratorInfo>(),
            padding: 0,
        };
        // SAFETY: the attributes have the layout that this command reads, `info` lives until the
        // call returns, and both descriptors are open.
        unsafe { bpf(BPF_LINK_CREATE, &attributes) }.map(Self)
    }

    /// Begins a walk. The reading is the walk.
    pub(super) fn open(&self) -> io::Result<File> {
        let attributes = IteratorCreate {
            link: self.0.as_raw_fd(),
            flags: 0,
        };
        // SAFETY: the attributes have the layout that this command reads; the descriptor is open.
        unsafe { bpf(BPF_ITER_CREATE, &attributes) }.map(File::from)
    }
}
