//! `trace`: state transitions as they happen.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tcpstate_common::RecordMask;

use super::{
    LogSettings, Printed, TraceFilter, TraceSettings, follow_segments, print, require_any,
    stop_on_signal,
};
use crate::{
    cli::Output,
    collect::segments::{Follower, SegmentLine},
    decode::{DecodeError, Transition},
    kernel::{
        self, EventRing, Flow, LoadOptions, OwnersReader, SegmentOptions, facts::Facts,
        plan::ProgramId,
    },
    trace::{Clock, Observed, Timeline, add},
};

/// Room for 64,000 transitions: six thousand connections between two looks.
const EVENT_RING_BYTES: u32 = 4 * 1024 * 1024;
/// Enough for what the limit below lets through.
const SEGMENT_RING_BYTES: u32 = 1024 * 1024;
/// Each CPU and tenth of a second: more than anybody reads, and no flood fills the ring.
const SEGMENT_LIMIT: u32 = 1_000;
/// How late an interface that has come is seen.
const INTERFACES_INTERVAL: Duration = Duration::from_secs(1);
/// How late a line may be printed.
const LATENESS: Duration = Duration::from_millis(50);

/// Prints until interrupted, or until no one reads.
pub(super) fn execute(settings: &TraceSettings, log: LogSettings) -> anyhow::Result<()> {
    let stop = stop_on_signal().context("cannot handle signals")?;
    let facts = Facts::gather();
    let mut loaded = kernel::load(
        &facts,
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
    learn_owners(loaded.owners.as_mut(), &mut timeline, &settings.filter)?;
    let options = SegmentOptions {
        record_limit: SEGMENT_LIMIT,
        ring_bytes: SEGMENT_RING_BYTES,
    };
    let mut segments = settings
        .segments
        .clone()
        .map(|segments| follow_segments(&facts, options, segments))
        .transpose()?;
    let mut followed = Instant::now();
    let clock = Clock::now();
    let mut reported = 0;
    while !stop.load(Ordering::Relaxed) {
        wake_up
            .wait(LATENESS)
            .context("cannot wait for transitions")?;
        let printed = print_new(ring, segments.as_mut(), &mut timeline, &clock, settings)?;
        if printed == Printed::NoOneReads {
            return Ok(());
        }
        if let Some(segments) = &mut segments
            && followed.elapsed() >= INTERFACES_INTERVAL
        {
            followed = Instant::now();
            if let Err(error) = segments.follow() {
                tracing::warn!(%error, "cannot look at the network interfaces");
            }
        }
        if let Some(log) = &mut loaded.kernel_log {
            log.flush();
        }
        report_lost(flow, ring, &mut reported)?;
    }
    print_new(ring, segments.as_mut(), &mut timeline, &clock, settings)?;
    report_total(flow, ring, segments.as_mut())
}

/// Learns who owns the sockets that there are. New ones say so themselves, and the programs run
/// already.
fn learn_owners(
    owners: Option<&mut OwnersReader>,
    timeline: &mut Timeline,
    filter: &TraceFilter,
) -> anyhow::Result<()> {
    let Some(owners) = owners else {
        anyhow::ensure!(
            !filter.asks_for_owners(),
            "cannot tell who owns sockets here (`tcpstate-agent check` says why)"
        );
        return Ok(());
    };
    let mut held = Vec::new();
    let processes = owners
        .walk(|owner| held.push(owner))
        .context("cannot find out who owns sockets")?;
    for owner in held {
        if let Some(process) = processes.get(&owner.process) {
            timeline.ownership.hold(&owner, &process.name);
        }
    }
    Ok(())
}

fn print_new(
    ring: &mut EventRing,
    segments: Option<&mut Follower>,
    timeline: &mut Timeline,
    clock: &Clock,
    settings: &TraceSettings,
) -> anyhow::Result<Printed> {
    let mut transitions = Vec::new();
    let refused = ring.drain(|transition: Transition| {
        // Followed even where it is not shown: the time in a state counts from the last
        // transition, whichever that was.
        let observed = timeline.observe(transition);
        if settings.filter.passes(&observed) {
            add(&mut transitions, observed);
        }
    });
    let mut lines: Vec<Line> = transitions.into_iter().map(Line::Transition).collect();
    let refused = segments
        .and_then(|segments| take_segments(segments, settings, &mut lines))
        .or(refused);
    lines.sort_by_key(Line::time_ns);
    if let Some(error) = refused {
        tracing::warn!(%error, "a malformed record from the kernel side was dropped");
    }
    print(|out| {
        lines
            .iter()
            .try_for_each(|line: &Line| match (line, settings.output) {
                (Line::Transition(line), Output::Text) => writeln!(out, "{}", line.text(clock)),
                (Line::Transition(line), Output::Json) => writeln!(out, "{}", line.json(clock)),
                (Line::Segment(line), Output::Text) => writeln!(out, "{}", line.text(clock)),
                (Line::Segment(line), Output::Json) => writeln!(out, "{}", line.json(clock)),
            })
    })
}

/// What a line is about.
enum Line {
    Transition(Observed),
    Segment(SegmentLine),
}

impl Line {
    const fn time_ns(&self) -> u64 {
        match self {
            Self::Transition(observed) => observed.transition.time_ns,
            Self::Segment(line) => line.segment.time_ns,
        }
    }
}

fn take_segments(
    segments: &mut Follower,
    settings: &TraceSettings,
    lines: &mut Vec<Line>,
) -> Option<DecodeError> {
    let mut found = Vec::new();
    let refused = segments.segments().drain(|segment| found.push(segment));
    for segment in found {
        if settings.filter.passes_segment(&segment) {
            let name = segments.name(segment.device).map(str::to_owned);
            lines.push(Line::Segment(SegmentLine {
                segment,
                // Gone since.
                device: name.unwrap_or_else(|| segment.device.to_string()),
            }));
        }
    }
    refused
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
fn report_total(
    flow: &Flow,
    ring: &EventRing,
    segments: Option<&mut Follower>,
) -> anyhow::Result<()> {
    let (lost, seen) = lost(flow, ring)?;
    eprintln!("{seen} transitions, {lost} lost");
    if let Some(segments) = segments {
        let segments = segments.segments();
        let events = segments
            .events()
            .context("cannot read what became of the segments")?;
        let lost = events.lost + segments.records_read().malformed;
        eprintln!(
            "{} segments, {lost} lost, {} withheld because there were too many at once",
            events.emitted, events.withheld
        );
    }
    Ok(())
}
