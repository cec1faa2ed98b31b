//! Loading the programs that a command needs.

use std::time::Duration;

use anyhow::Context as _;
use tcpstate_common::RecordMask;

use crate::{
    collect::{SeriesLimits, owners::Hidden},
    engine::{Watch, WatchSettings},
    kernel::{
        self, KernelLogLevel, LoadOptions, Loaded, ProgramStatus, facts::Facts, plan::ProgramId,
    },
};

/// Hundreds of namespaces beside millions of sockets take seconds.
const PATIENCE: Duration = Duration::from_mins(2);
/// There is nothing to save CPU time for.
const ONCE: WatchSettings = WatchSettings {
    cpu_percent: 100.0,
    close_wait_top: 0,
    listeners_top: 0,
    destinations_top: 0,
    only_when_asked: false,
    series: SeriesLimits::USUAL,
    named: Vec::new(),
    hidden: Hidden::NONE,
};

/// A watch for a command that looks once: with `programs`, and with everything counted.
pub(super) fn watch_once(programs: &[ProgramId]) -> anyhow::Result<Watch> {
    let watch = start(programs, ONCE)?;
    if !watch.wait_until_ready(PATIENCE) {
        anyhow::bail!("cannot count all network namespaces within {PATIENCE:?}");
    }
    Ok(watch)
}

/// A watch for a command that asks for what it wants to know: one look finds out all of it.
pub(super) fn watch_to_ask(programs: &[ProgramId]) -> anyhow::Result<Watch> {
    let settings = WatchSettings {
        only_when_asked: true,
        ..ONCE
    };
    start(programs, settings)
}

fn start(programs: &[ProgramId], settings: WatchSettings) -> anyhow::Result<Watch> {
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
    Watch::start(loaded, settings).context("cannot start counting")
}

/// Fails if no program of `loaded` runs, and warns of each that does not.
pub(super) fn require_any(loaded: &Loaded) -> anyhow::Result<()> {
    let mut reasons = Vec::new();
    for ProgramStatus { program, outcome } in &loaded.programs {
        let Err(obstacle) = outcome else { continue };
        reasons.push(format!(
            "cannot run {} ({}): {} ({})",
            program.name(),
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
