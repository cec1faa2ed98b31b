//! The snapshot engine's pass: count the sockets of one network namespace in the kernel.

use std::{fs::File, io};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
    programs::{Iter, ProgramError, links::LinkError},
};
use tcpstate_common::{SocketCounts, program};
use thiserror::Error;

use super::wire::Wire;

/// The loaded `iter/tcp` program.
pub struct SocketPass {
    /// Owns the program.
    pub(super) ebpf: Ebpf,
    pub(super) counts: Array<MapData, Wire<SocketCounts>>,
}

/// Why a pass gave no counts.
#[derive(Debug, Error)]
pub enum PassError {
    /// The iterator could not be opened.
    #[error("cannot open the iterator: {0}")]
    Open(#[from] ProgramError),
    /// The iterator could not be opened.
    #[error("cannot open the iterator: {0}")]
    Link(#[from] LinkError),
    /// The walk broke off.
    #[error("cannot walk the sockets: {0}")]
    Walk(#[from] io::Error),
    /// The counts could not be cleared or read.
    #[error("cannot read the counts: {0}")]
    Counts(#[from] MapError),
}

impl SocketPass {
    /// Counts the sockets of the network namespace that the calling thread is in.
    ///
    /// Takes as long as the kernel takes to walk its whole hash table, which all namespaces
    /// share: milliseconds on an idle host, half a second at a million sockets.
    pub fn count(&mut self) -> Result<SocketCounts, PassError> {
        self.counts.set(0, Wire(SocketCounts::default()), 0)?;
        walk(self.open()?)?;
        let Wire(counts) = self.counts.get(&0, 0)?;
        Ok(counts)
    }

    /// The kernel takes the namespace from the thread that creates the file, so each pass makes
    /// its own; attaching again costs some 5 µs.
    fn open(&mut self) -> Result<File, PassError> {
        let program: &mut Iter = self
            .ebpf
            .program_mut(program::COUNT_SOCKETS)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()?;
        let link = program.attach()?;
        Ok(program.take_link(link)?.into_file()?)
    }
}

/// Reads to the end a file whose program writes nothing: the reading is the walk.
///
/// One `read()` visits at most a million sockets and then fails with `EAGAIN`, to be called again
/// ([`kernel/bpf/bpf_iter.c`], `MAX_ITER_OBJECTS`).
///
/// [`kernel/bpf/bpf_iter.c`]: https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/bpf_iter.c
fn walk(mut file: impl io::Read) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers reads as the kernel does for `objects` sockets and a program that writes nothing.
    struct Iterator {
        objects: u64,
        reads: u32,
    }

    impl io::Read for &mut Iterator {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.reads += 1;
            if self.objects > 1_000_000 {
                self.objects -= 1_000_000;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.objects = 0;
            Ok(0)
        }
    }

    #[test]
    fn a_walk_goes_on_after_a_million_sockets() {
        for (objects, reads) in [(0, 1), (1_000_000, 1), (1_000_001, 2), (3_500_000, 4)] {
            let mut iterator = Iterator { objects, reads: 0 };
            walk(&mut iterator).unwrap();
            assert_eq!((iterator.objects, iterator.reads), (0, reads));
        }
    }

    #[test]
    fn any_other_error_ends_the_walk() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::OutOfMemory.into())
            }
        }
        assert_eq!(walk(Broken).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
