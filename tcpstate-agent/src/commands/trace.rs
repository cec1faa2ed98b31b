//! `trace`: state transitions as they happen.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tcpstate_common::RecordMask;

use super::{Printed, print, require_any};
use crate::{
    bpf::{self, EventRing, Flow, LoadOptions, SocketPass, facts::Facts, plan::ProgramId},
    cli::Output,
    decode::Transition,
    process::Processes,
    settings::{LogSettings, TraceFilter, TraceSettings},
    timeline::{Clock, Observed, Timeline},
};

/// Room for 64,000 transitions: six thousand connections between two looks.
const EVENT_RING_BYTES: u32 = 4 * 1024 * 1024;
/// How late a line may be printed.
const LATENESS: Duration = Duration::from_millis(50);

/// Prints until interrupted, or until no one reads.
pub fn execute(settings: &TraceSettings, log: LogSettings) -> anyhow::Result<()> {
    let stop = stop_on_signal().context("cannot handle signals")?;
    let mut loaded = bpf::load(
        &Facts::gather(),
        &LoadOptions {
            programs: &ProgramId::ALL,
            record_mask: RecordMask::EVERY_TRANSITION,
            event_ring_bytes: EVENT_RING_BYTES,
            every_owner: true,
            kernel_log: log.kernel(),
        },
    )?;
    require_any(&loaded)?;
    let (Some(flow), Some(ring)) = (&loaded.flow, &mut loaded.events) else {
        anyhow::bail!("no transitions can be seen");
    };
    let wake_up = ring.wake_up().context("cannot wait for transitions")?;
    let mut timeline = Timeline::default();
    learn_owners(loaded.socket_pass.as_mut(), &mut timeline, &settings.filter)?;
    let clock = Clock::now();
    let mut reported = 0;
    while !stop.load(Ordering::Relaxed) {
        wake_up
            .wait(LATENESS)
            .context("cannot wait for transitions")?;
        if print_new(ring, &mut timeline, &clock, settings)? == Printed::NoOneReads {
            return Ok(());
        }
        if let Some(log) = &mut loaded.kernel_log {
            log.flush();
        }
        report_lost(flow, ring, &mut reported)?;
    }
    print_new(ring, &mut timeline, &clock, settings)?;
    report_total(flow, ring)
}

/// Learns who owns the sockets that there are. New ones say so themselves, and the programs run
/// already.
fn learn_owners(
    socket_pass: Option<&mut SocketPass>,
    timeline: &mut Timeline,
    filter: &TraceFilter,
) -> anyhow::Result<()> {
    let Some(socket_pass) = socket_pass.filter(|pass| pass.tells_owners()) else {
        anyhow::ensure!(
            !filter.asks_for_owners(),
            "cannot tell who owns sockets here (`tcpstate-agent check` says why)"
        );
        return Ok(());
    };
    let mut processes = Processes::default();
    let now = Instant::now();
    socket_pass
        .owners(|owner| {
            if let Some(process) = processes.get(owner.process, now) {
                timeline.ownership.hold(&owner, &process.name);
            }
        })
        .context("cannot find out who owns sockets")
}

fn print_new(
    ring: &mut EventRing,
    timeline: &mut Timeline,
    clock: &Clock,
    settings: &TraceSettings,
) -> anyhow::Result<Printed> {
    let mut lines = Vec::new();
    let refused = ring.drain(|transition: Transition| {
        // Followed even where it is not shown: the time in a state counts from the last
        // transition, whichever that was.
        let observed = timeline.observe(transition);
        if settings.filter.passes(&observed) {
            lines.push(observed);
        }
    });
    if let Some(error) = refused {
        tracing::warn!(%error, "a malformed record from the kernel side was dropped");
    }
    print(|out| {
        lines
            .iter()
            .try_for_each(|line: &Observed| match settings.output {
                Output::Text => writeln!(out, "{}", line.text(clock)),
                Output::Json => writeln!(out, "{}", line.json(clock)),
            })
    })
}

fn lost(flow: &Flow, ring: &EventRing) -> anyhow::Result<(u64, u64)> {
    let counters = flow.events().context("cannot read the event counters")?;
    Ok((
        counters.lost + ring.records_read().malformed,
        counters.emitted,
    ))
}

fn report_lost(flow: &Flow, ring: &EventRing, reported: &mut u64) -> anyhow::Result<()> {
    let (lost, _) = lost(flow, ring)?;
    if lost > *reported {
        tracing::warn!(
            lost = lost - *reported,
            "transitions came faster than they could be printed"
        );
        *reported = lost;
    }
    Ok(())
}

#[expect(
    clippy::print_stderr,
    reason = "the last word to the person who traced"
)]
fn report_total(flow: &Flow, ring: &EventRing) -> anyhow::Result<()> {
    let (lost, seen) = lost(flow, ring)?;
    eprintln!("{seen} transitions, {lost} lost");
    Ok(())
}

/// Becomes true on SIGINT and SIGTERM.
fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
