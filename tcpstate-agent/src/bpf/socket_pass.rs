//! A walk over all files of all processes, inside the kernel.

use std::{fs::File, io};

use aya::{
    Ebpf,
    programs::{Iter, ProgramError, links::LinkError},
};
use tcpstate_common::{OwnerRecord, program};
use thiserror::Error;
use tracing::warn;
use zerocopy::FromBytes;

use crate::decode::{DecodeError, Owner};

/// The loaded iterator.
pub struct SocketPass {
    /// Owns the program.
    pub(super) ebpf: Ebpf,
}

/// Why a walk gave nothing.
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
}

impl SocketPass {
    /// Since when a socket is in CLOSE_WAIT.
    #[must_use]
    #[expect(clippy::unused_self, reason = "to come")]
    pub const fn since(&self, _socket: u64) -> Option<u64> {
        None
    }

    /// Hands over every descriptor of every process that is a socket in CLOSE_WAIT, or a listener.
    /// Of all network namespaces; of the processes that the caller's PID namespace shows, the
    /// lowest number first.
    pub fn owners(&mut self, each: impl FnMut(Owner)) -> Result<(), PassError> {
        Ok(read_decoded::<OwnerRecord, _>(
            self.open(program::OWNERS)?,
            each,
        )?)
    }

    fn open(&mut self, program: &str) -> Result<File, PassError> {
        let program: &mut Iter = self
            .ebpf
            .program_mut(program)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()?;
        let link = program.attach()?;
        Ok(program.take_link(link)?.into_file()?)
    }
}

/// Reads an iterator's file to its end and hands over what its records say.
fn read_decoded<R, T>(file: File, mut each: impl FnMut(T)) -> io::Result<()>
where
    R: FromBytes,
    T: TryFrom<R, Error = DecodeError>,
{
    let mut refused = None;
    read_records(file, |record: R| match T::try_from(record) {
        Ok(value) => each(value),
        Err(error) => refused = Some(error),
    })?;
    report(refused);
    Ok(())
}

fn report(refused: Option<DecodeError>) {
    if let Some(error) = refused {
        warn!(%error, "a malformed record from the kernel side was dropped");
    }
}

/// More than the 32 KiB that the kernel hands out at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Reads an iterator's file to its end and hands over the records in it. The reading is the walk.
///
/// One `read()` visits at most a million sockets and, where nothing was written, then fails with
/// `EAGAIN`, to be called again ([`kernel/bpf/bpf_iter.c`], `MAX_ITER_OBJECTS`).
///
/// [`kernel/bpf/bpf_iter.c`]: https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/bpf_iter.c
pub(super) fn read_records<T: FromBytes>(
    mut file: impl io::Read,
    mut each: impl FnMut(T),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        match file.read(&mut buffer[filled..]) {
            Ok(0) if filled > 0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the last record is cut off",
                ));
            }
            Ok(0) => return Ok(()),
            Ok(bytes) => filled += bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        let whole = filled - filled % size_of::<T>();
        let records = buffer[..whole].chunks_exact(size_of::<T>());
        records
            .filter_map(|bytes| T::read_from_bytes(bytes).ok())
            .for_each(&mut each);
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
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
            read_records(&mut iterator, |_: u64| {}).unwrap();
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
        let broken = read_records(Broken, |_: u64| {});
        assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }

    /// Gives out `bytes` in pieces of `piece`.
    struct Pieces<'a> {
        bytes: &'a [u8],
        piece: usize,
    }

    impl io::Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.piece.min(self.bytes.len()).min(buffer.len());
            let (now, later) = self.bytes.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.bytes = later;
            Ok(length)
        }
    }

    #[test]
    fn records_are_whole_wherever_a_read_splits_them() {
        let bytes: Vec<u8> = (0..100_u64).flat_map(u64::to_ne_bytes).collect();
        for piece in 1..=40 {
            let mut read = Vec::new();
            let pieces = Pieces {
                bytes: &bytes,
                piece,
            };
            read_records(pieces, |record: u64| read.push(record)).unwrap();
            assert!(read.into_iter().eq(0..100), "pieces of {piece}");
        }
    }

    #[test]
    fn a_record_that_is_cut_off_is_an_error() {
        let pieces = Pieces {
            bytes: &[0; 15],
            piece: 4,
        };
        let cut = read_records(pieces, |_: u64| {});
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
