//! The snapshot engine's passes: walks over all sockets of a network namespace, or over all
//! descriptors of all processes, inside the kernel.

use std::{fs::File, io};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
    programs::{Iter, ProgramError, links::LinkError},
};
use tcpstate_common::{
    ClockSample, DESTINATIONS_TOGETHER, Destinations, MAX_DESTINATIONS, PortSet, SocketCounts,
    SocketRecord, UnansweredRecord, program,
};
use thiserror::Error;
use tracing::{debug, warn};
use zerocopy::FromBytes;

use super::{
    pass::{HeldProcesses, OwnerWalk, OwnersError, OwnersReader, Progress},
    wire::Wire,
};
use crate::decode::{DecodeError, Outgoing, Owner, Socket, Unanswered};

/// The loaded iterators.
pub struct SocketPass {
    /// Owns the programs.
    pub(super) ebpf: Ebpf,
    pub(super) counts: Array<MapData, Wire<SocketCounts>>,
    pub(super) clock: Array<MapData, Wire<ClockSample>>,
    pub(super) port_range: Array<MapData, Wire<PortSet>>,
    pub(super) destinations: Array<MapData, Wire<Destinations>>,
    /// Passes so far.
    pub(super) passes: u32,
    /// Walks over descriptors, where the program that describes sockets in CLOSE_WAIT is loaded
    /// too.
    pub(super) owners: Option<OwnersReader>,
    /// The program that describes sockets whose peers do not answer is loaded.
    pub(super) tells_unanswered: bool,
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
    /// Whether [`SocketPass::describe`] and [`SocketPass::owners`] can be used.
    #[must_use]
    pub const fn tells_owners(&self) -> bool {
        self.owners.is_some()
    }

    /// Whether [`SocketPass::unanswered`] can be used.
    #[must_use]
    pub const fn tells_unanswered(&self) -> bool {
        self.tells_unanswered
    }

    /// Says which ports `connect()` may choose in the namespace that is counted next: only those
    /// count as held.
    pub fn set_port_range(&mut self, ports: &PortSet) -> Result<(), PassError> {
        Ok(self.port_range.set(0, Wire(*ports), 0)?)
    }

    /// Where the outgoing connections go that the last pass has `counted`.
    pub fn outgoing(&self, counted: &SocketCounts) -> Result<Vec<Outgoing>, PassError> {
        // More than there is room for have come, where some had to make room.
        let mut left = counted.destinations.min(MAX_DESTINATIONS) as usize;
        let mut found = Vec::with_capacity(left);
        let mut refused = None;
        for together in 0..self.destinations.len() {
            if left == 0 {
                break;
            }
            let Wire(Destinations { entries }) = self.destinations.get(&together, 0)?;
            for entry in entries.into_iter().take(left) {
                match Outgoing::try_from(entry) {
                    Ok(outgoing) => found.push(outgoing),
                    Err(error) => refused = Some(error),
                }
            }
            left = left.saturating_sub(DESTINATIONS_TOGETHER);
        }
        report(refused);
        Ok(found)
    }

    /// Counts the sockets of the network namespace that the calling thread is in.
    ///
    /// Takes as long as the kernel takes to walk its whole hash table, which all namespaces
    /// share: milliseconds on an idle host, half a second at a million sockets.
    pub fn count(&mut self) -> Result<SocketCounts, PassError> {
        self.begin_pass()?;
        // Writes nothing: the reading is the walk.
        read_records(self.open(program::COUNT_SOCKETS)?, |_: SocketRecord| {})?;
        self.counts()
    }

    /// The same, and hands over what there is to say of listeners and of sockets in CLOSE_WAIT.
    /// Listeners come first.
    pub fn describe(&mut self, each: impl FnMut(Socket)) -> Result<SocketCounts, PassError> {
        self.begin_pass()?;
        read_decoded::<SocketRecord, _>(self.open(program::CLOSE_WAIT)?, each)?;
        self.counts()
    }

    /// The same as [`SocketPass::count`], and hands over the sockets whose peers do not answer.
    pub fn unanswered(&mut self, each: impl FnMut(Unanswered)) -> Result<SocketCounts, PassError> {
        self.begin_pass()?;
        read_decoded::<UnansweredRecord, _>(self.open(program::UNANSWERED)?, each)?;
        self.counts()
    }

    /// Hands over every descriptor of every process that is a socket in CLOSE_WAIT or a listener,
    /// of all network namespaces. Those of one socket come in the order of their processes' numbers,
    /// but for what is beyond [`MAX_SHARED`]. Returns who these processes are.
    pub fn owners(&mut self, mut each: impl FnMut(Owner)) -> Result<HeldProcesses, OwnersError> {
        let reader = self.owners.as_mut().ok_or(ProgramError::NotLoaded)?;
        let mut walk = OwnerWalk::default();
        let mut shared = Vec::new();
        let mut progress = Progress::More;
        while progress == Progress::More {
            progress = reader.step(&mut walk, |owner| {
                if owner.is_shared && shared.len() < MAX_SHARED {
                    shared.push(owner);
                } else {
                    each(owner);
                }
            })?;
        }
        shared.sort_by_key(|owner| owner.process);
        shared.into_iter().for_each(each);
        debug!(account = ?walk.account(), "walked over all processes");
        reader.processes(&walk)
    }

    /// The kernel's clocks at the end of the last [`SocketPass::describe`]; zeros before.
    pub fn clock(&self) -> Result<ClockSample, PassError> {
        let Wire(sample) = self.clock.get(&0, 0)?;
        Ok(sample)
    }

    fn begin_pass(&mut self) -> Result<(), PassError> {
        // What an earlier pass has left in other maps is told by its number. 0 is that of none.
        self.passes = (self.passes + 1) % MAX_PASSES;
        let zeros = SocketCounts {
            pass: self.passes.max(1),
            ..SocketCounts::default()
        };
        Ok(self.counts.set(0, Wire(zeros), 0)?)
    }

    fn counts(&self) -> Result<SocketCounts, PassError> {
        let Wire(counts) = self.counts.get(&0, 0)?;
        Ok(counts)
    }

    /// The kernel takes the namespaces from the thread that creates the file, so each pass makes
    /// its own; attaching again costs some 5 µs.
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

/// Descriptors of shared sockets that are put in order.
const MAX_SHARED: usize = 65_536;

/// The kernel side keeps four bits beside the number of a pass.
const MAX_PASSES: u32 = 1 << 28;

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
