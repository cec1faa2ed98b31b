//! The ring buffer of transition records, from the reader's side.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use tcpstate_common::TransitionRecord;

use crate::decode::{DecodeError, Transition};

/// Reads records and accounts for each.
pub struct EventRing {
    ring: RingBuf<MapData>,
    capacity: usize,
    read: RecordsRead,
}

/// What a record takes in the ring, with its header.
const RECORD_BYTES: usize = 8 + size_of::<TransitionRecord>();

/// What became of the records that reached the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordsRead {
    /// Records that were understood.
    pub decoded: u64,
    /// Records that were not, and were dropped.
    pub malformed: u64,
}

impl EventRing {
    /// A reader of a ring of `bytes`.
    pub(super) fn new(ring: RingBuf<MapData>, bytes: u32) -> Self {
        Self {
            ring,
            capacity: bytes as usize / RECORD_BYTES,
            read: RecordsRead::default(),
        }
    }

    /// Hands the records that are in the ring to `take`, oldest first, and at most as many as fit
    /// into it, so that it ends even where they come faster than they are taken. Returns the
    /// last reason for which a record was dropped, if one was.
    pub fn drain(&mut self, mut take: impl FnMut(Transition)) -> Option<DecodeError> {
        let mut refused = None;
        for _ in 0..self.capacity {
            let Some(record) = self.ring.next() else {
                break;
            };
            match Transition::decode(&record) {
                Ok(transition) => {
                    self.read.decoded += 1;
                    take(transition);
                }
                Err(error) => {
                    self.read.malformed += 1;
                    refused = Some(error);
                }
            }
        }
        refused
    }

    /// What to wait for before the next look into the ring.
    pub fn wake_up(&self) -> io::Result<WakeUp> {
        self.ring.as_fd().try_clone_to_owned().map(WakeUp)
    }

    /// What became of the records so far.
    #[must_use]
    pub const fn records_read(&self) -> RecordsRead {
        self.read
    }
}

/// Waits for the kernel side to want its ring emptied at once.
#[derive(Debug)]
pub struct WakeUp(OwnedFd);

impl WakeUp {
    /// Waits at most `timeout`. Records come without a wake-up too: look into the ring in any
    /// case.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut readable = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut readable, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
