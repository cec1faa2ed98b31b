//! Since when sockets are in CLOSE_WAIT, as the transition program writes it down.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::{
    Ebpf,
    maps::{Array, MapError},
    programs::ProgramError,
};
use tcpstate_common::{
    map, program,
    stopwatch::{self, ROW_WORDS, ROWS, StopwatchKey},
};
use thiserror::Error;

use super::{mapped::Mapped, program::Program};

type Rows = [[AtomicU64; ROW_WORDS]; ROWS as usize];

/// The table of CLOSE_WAIT in the agent's own memory: a look-up is no system call.
pub struct Stopwatch {
    rows: Mapped<Rows>,
    /// Where the addresses of sockets are measured from.
    origin: u64,
}

/// Why the table cannot be read.
#[derive(Debug, Error)]
pub(in super::super) enum StopwatchError {
    /// The program that tells the origin was refused.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A map cannot be read.
    #[error(transparent)]
    Map(#[from] MapError),
}

impl Stopwatch {
    /// Takes it from the object of the transition program.
    pub(in super::super) fn take(ebpf: &mut Ebpf) -> Result<Self, StopwatchError> {
        Program::load(ebpf, program::ORIGIN)?.run()?;
        let missing = || MapError::InvalidName {
            name: map::ORIGIN.into(),
        };
        let origin = Array::<_, u64>::try_from(ebpf.take_map(map::ORIGIN).ok_or_else(missing)?)?;
        Ok(Self {
            rows: Mapped::take(ebpf, map::STOPWATCH)?,
            origin: origin.get(&0, 0)?,
        })
    }

    /// `CLOCK_MONOTONIC` nanoseconds at which the socket at an address came into CLOSE_WAIT, where
    /// that was seen.
    #[must_use]
    pub fn since(&self, socket: u64, now_ns: u64) -> Option<u64> {
        let key = StopwatchKey::of(socket.wrapping_sub(self.origin));
        let row = self.rows.get().get(key.row as usize)?;
        let words = row.each_ref().map(|word| word.load(Ordering::Relaxed));
        let index = key.find(&words)?;
        Some(stopwatch::since(words[index], now_ns))
    }
}
