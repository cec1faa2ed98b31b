//! The commands: each wires what it needs, and nothing else sees everything.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context as _;
use tcpstate_common::RecordMask;

use super::{
    DiagnoseSettings, ListenersSettings, LogSettings, RunSettings, TraceSettings, WhereSettings,
    check, diagnose, listeners, logging, run, snapshot, trace, where_in_code,
};
use crate::{
    cli::{Cli, Command},
    collect::segments::{Follower, SegmentSettings},
    engine::{Watch, WatchSettings},
    kernel::{
        self, KernelLogLevel, LoadOptions, Loaded, ProgramStatus, SegmentOptions, Segments,
        facts::Facts, plan::ProgramId,
    },
};

/// Exit code of a command that did its work and found something wrong.
pub(super) const FOUND_WRONG: u8 = 1;

/// Does what the command line says and returns the exit code.
pub fn execute(cli: Cli) -> anyhow::Result<u8> {
    let Cli { command, run, log } = cli;
    let log = LogSettings::from(log);
    logging::start(log);
    match command.unwrap_or(Command::Run(run)) {
        Command::Run(args) => run::execute(&RunSettings::try_from(args)?, log)?,
        Command::Snapshot(args) => snapshot::execute(args.output)?,
        Command::Trace(args) => trace::execute(&TraceSettings::try_from(args)?, log)?,
        Command::Diagnose(args) => diagnose::execute(&DiagnoseSettings::from(args))?,
        Command::Listeners(args) => listeners::execute(&ListenersSettings::from(args))?,
        Command::Where(args) => where_in_code::execute(&WhereSettings::from(args))?,
        Command::Check(args) => return check::execute(&args.segments.try_into()?),
    }
    Ok(0)
}

/// Hundreds of namespaces beside millions of sockets take seconds.
const PATIENCE: Duration = Duration::from_mins(2);
/// There is nothing to save CPU time for.
const ONCE: WatchSettings = WatchSettings {
    cpu_percent: 100.0,
    close_wait_top: 0,
    listeners_top: 0,
    destinations_top: 0,
};

/// A watch for a command that looks once: with `programs`, and with everything counted.
pub(super) fn watch_once(programs: &[ProgramId]) -> anyhow::Result<Watch> {
    let loaded = kernel::load(
        &Facts::gather(),
        &LoadOptions {
            programs,
            record_mask: RecordMask::ABNORMAL_ENDS,
            event_ring_bytes: 0,
            every_owner: false,
            kernel_log: KernelLogLevel::Off,
        },
    )?;
    require_any(&loaded)?;
    anyhow::ensure!(
        loaded.tables.is_some(),
        "cannot read the kernel's tables of sockets (`tcpstate-agent check` says why)"
    );
    let watch = Watch::start(loaded, ONCE).context("cannot start counting")?;
    if !watch.wait_until_ready(PATIENCE) {
        anyhow::bail!("cannot count all network namespaces within {PATIENCE:?}");
    }
    Ok(watch)
}

/// Fails if no program of `loaded` runs, and warns of each that does not.
pub(super) fn require_any(loaded: &Loaded) -> anyhow::Result<()> {
    let mut reasons = Vec::new();
    for ProgramStatus { program, outcome } in &loaded.programs {
        let Err(obstacle) = outcome else { continue };
        reasons.push(format!(
            "cannot run {}: {} ({})",
            program.hook(),
            obstacle.cause,
            obstacle.remedy
        ));
    }
    if reasons.len() == loaded.programs.len() {
        reasons.dedup_by_key(|reason| reason.split_once(": ").map(|(_, cause)| cause.to_owned()));
        anyhow::bail!("{}", reasons.join("; "));
    }
    for reason in reasons {
        tracing::warn!("{reason}");
    }
    Ok(())
}

/// Loads the programs that count segments, and attaches them. Warns of each that does not run.
pub(super) fn follow_segments(
    facts: &Facts,
    options: SegmentOptions,
    settings: SegmentSettings,
) -> anyhow::Result<Follower> {
    let segments = Segments::load(facts, options).context("cannot count segments")?;
    for program in segments.programs() {
        if let Err(obstacle) = &program.outcome {
            tracing::warn!(
                "cannot run {}: {} ({})",
                program.name,
                obstacle.cause,
                obstacle.remedy
            );
        }
    }
    Follower::start(segments, settings).context("cannot look at the network interfaces")
}

/// Becomes true on SIGINT and SIGTERM.
pub(super) fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
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
