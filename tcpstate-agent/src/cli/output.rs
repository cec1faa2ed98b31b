//! What a command prints, and printing it.

use std::io;

use anyhow::Context as _;
use clap::ValueEnum;

/// What a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Writes to stdout. A reader that has gone away, such as `head`, is no error.
pub(super) fn print(
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> anyhow::Result<Printed> {
    let mut stdout = io::stdout().lock();
    match write(&mut stdout).and_then(|()| io::Write::flush(&mut stdout)) {
        Ok(()) => Ok(Printed::All),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Printed::NoOneReads),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

/// Whether anyone still reads what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Printed {
    All,
    NoOneReads,
}
