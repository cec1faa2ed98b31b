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
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use tcpstate_common::{RecordMask, TcpState};

use super::{
    SettingsError,
    loading::require_any,
    logging::LogSettings,
    output::{Output, Printed, print},
    segments::{DeviceArgs, SegmentArgs, XdpModeArg, follow_segments},
};
use crate::{
    collect::segments::{Follower, Segment, SegmentLine, SegmentSettings},
    decode::{DecodeError, Owner, Transition},
    kernel::{
        self, EventRing, Flow, HeldProcesses, LoadOptions, OwnersReader, SegmentOptions,
        facts::Facts, plan::ProgramId,
    },
    trace::{Clock, Observed, Timeline, add},
};

/// Flags of `trace`.
#[derive(Args, Clone, Debug)]
pub(super) struct TraceArgs {
    /// Only transitions into or out of this state; may be given more than once
    #[arg(
        long,
        env = "TCPSTATE_TRACE_STATE",
        value_name = "STATE",
        value_delimiter = ',',
        value_parser = state()
    )]
    pub(super) state: Vec<TcpState>,
    /// Only sockets with this local or remote port; may be given more than once
    #[arg(
        long,
        env = "TCPSTATE_TRACE_PORT",
        value_name = "PORT",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(super) port: Vec<u16>,
    /// Only sockets that this process owns, by its number or its name (comm); may be given more
    /// than once
    #[arg(
        long,
        env = "TCPSTATE_TRACE_PROCESS",
        value_name = "PID|NAME",
        value_delimiter = ','
    )]
    pub(super) process: Vec<String>,
    /// Print the segments too that open, end or reset connections, or make no sense: on the
    /// interfaces of --segments.device, or on all
    #[arg(long, env = "TCPSTATE_TRACE_SEGMENTS")]
    pub(super) segments: bool,
    /// Where to see them.
    #[command(flatten)]
    pub(super) on: DeviceArgs,
    /// Output format; json is one object a line
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

fn state() -> impl TypedValueParser<Value = TcpState> {
    // No transition leads into TIME_WAIT or out of it: a minisocket has none.
    let names = TcpState::FOUND
        .into_iter()
        .filter(|state| *state != TcpState::TimeWait)
        .chain([TcpState::Close])
        .map(TcpState::name);
    PossibleValuesParser::new(names).try_map(|name| {
        TcpState::ALL
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or("no such state")
    })
}

/// Settings of `trace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TraceSettings {
    /// What to print.
    pub(super) filter: TraceFilter,
    /// Where to see segments; they are not printed where there is none.
    pub(super) segments: Option<SegmentSettings>,
    /// How to print it.
    pub(super) output: Output,
}

impl TryFrom<TraceArgs> for TraceSettings {
    type Error = SettingsError;

    fn try_from(args: TraceArgs) -> Result<Self, SettingsError> {
        let TraceArgs {
            state,
            port,
            process,
            segments,
            mut on,
            output,
        } = args;
        if on.device.is_empty() {
            on.device.push("all".to_owned());
        }
        // By TC alone, which nothing notices.
        let on = SegmentArgs {
            on,
            xdp_mode: XdpModeArg::Off,
        };
        Ok(Self {
            filter: TraceFilter {
                states: state,
                ports: port,
                processes: process,
            },
            segments: segments.then(|| on.try_into()).transpose()?,
            output,
        })
    }
}

/// Which transitions to print: those that pass every part that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TraceFilter {
    states: Vec<TcpState>,
    ports: Vec<u16>,
    processes: Vec<String>,
}

impl TraceFilter {
    /// Whether it matters who owns a socket.
    #[must_use]
    pub(super) const fn asks_for_owners(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Whether a segment is to be printed. It has no state and no process.
    #[must_use]
    pub(super) fn passes_segment(&self, segment: &Segment) -> bool {
        let ports = [segment.source.port(), segment.destination.port()];
        self.ports.is_empty() || self.ports.iter().any(|port| ports.contains(port))
    }

    /// Whether a transition is to be printed.
    #[must_use]
    pub(super) fn passes(&self, observed: &Observed) -> bool {
        let transition = &observed.transition;
        let of_state = |state: &TcpState| {
            [transition.old.name(), transition.new.name()].contains(&state.name())
        };
        let of_port =
            |port: &u16| [transition.local.port(), transition.remote.port()].contains(port);
        let of_process = |process: &String| {
            let mut owners = observed.owners.processes.iter();
            owners.any(|owner| owner.name == *process || owner.pid.to_string() == *process)
        };
        (self.states.is_empty() || self.states.iter().any(of_state))
            && (self.ports.is_empty() || self.ports.iter().any(of_port))
            && (self.processes.is_empty() || self.processes.iter().any(of_process))
    }
}

/// Room for 64,000 transitions: six thousand connections between two looks.
const EVENT_RING_BYTES: u32 = 4 * 1024 * 1024;
/// Enough for what the limit below lets through.
const SEGMENT_RING_BYTES: u32 = 1024 * 1024;
/// Each CPU and tenth of a second: more than anybody reads, and no flood fills the ring.
const SEGMENT_LIMIT: u32 = 1_000;
/// How late an interface that has come is seen.
const INTERFACES_INTERVAL: Duration = Duration::from_secs(1);
/// How often to find out at most who has accepted what one of several processes has.
const OWNERS_INTERVAL: Duration = Duration::from_secs(2);
/// Which part of the time that may take: one in so many.
const OWNERS_SHARE: u32 = 20;
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
    let mut walk_due = Instant::now() + OWNERS_INTERVAL;
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
        if let Some(owners) = &mut loaded.owners
            && timeline.ownership.is_undecided()
            && Instant::now() >= walk_due
        {
            let begun = Instant::now();
            decide_owners(owners, &mut timeline);
            walk_due = Instant::now() + OWNERS_INTERVAL.max(begun.elapsed() * OWNERS_SHARE);
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
    for (owner, name) in named(&held, &processes) {
        timeline.ownership.hold(owner, name);
    }
    Ok(())
}

/// Finds out who has accepted what one of several processes has.
fn decide_owners(owners: &mut OwnersReader, timeline: &mut Timeline) {
    let mut held = Vec::new();
    match owners.walk(|owner| held.push(owner)) {
        Ok(processes) => timeline.ownership.decide(named(&held, &processes)),
        Err(error) => tracing::debug!(%error, "who has accepted connections is not told"),
    }
}

/// Descriptors, each with the name of its process.
fn named<'a>(
    held: &'a [Owner],
    processes: &'a HeldProcesses,
) -> impl Iterator<Item = (&'a Owner, &'a str)> {
    held.iter().filter_map(|owner| {
        let process = processes.get(&owner.process)?;
        Some((owner, process.name.as_str()))
    })
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

/// Becomes true on SIGINT and SIGTERM.
fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use tcpstate_common::Family;

    use super::*;
    use crate::trace::{Owners, SocketOwner};

    #[test]
    fn a_filter_passes_what_matches_each_of_its_parts() {
        let transition = Transition {
            time_ns: 0,
            socket: 1,
            namespace: 1,
            family: Family::Ipv4,
            old: TcpState::Established,
            new: TcpState::CloseWait,
            error: 0,
            reason: None,
            local: "127.0.0.1:80".parse().unwrap(),
            remote: "127.0.0.1:4000".parse().unwrap(),
            caller: None,
        };
        let observed = Observed {
            transition,
            in_state: None,
            owners: Owners {
                processes: vec![Arc::new(SocketOwner {
                    pid: 4711,
                    name: "curl".to_owned(),
                })],
                is_one_of: false,
            },
        };
        for (states, ports, processes, passes) in [
            (vec![], vec![], vec![], true),
            (vec![TcpState::Established], vec![], vec![], true),
            (
                vec![TcpState::CloseWait, TcpState::Listen],
                vec![],
                vec![],
                true,
            ),
            (vec![TcpState::Listen], vec![], vec![], false),
            (vec![], vec![80], vec![], true),
            (vec![], vec![4000, 1], vec![], true),
            (vec![], vec![81], vec![], false),
            (vec![TcpState::CloseWait], vec![81], vec![], false),
            (vec![], vec![], vec!["curl"], true),
            (vec![], vec![], vec!["nginx", "4711"], true),
            (vec![], vec![], vec!["471", "cur"], false),
            (vec![], vec![80], vec!["nginx"], false),
        ] {
            let processes = processes.into_iter().map(str::to_owned).collect();
            let filter = TraceFilter {
                states,
                ports,
                processes,
            };
            assert_eq!(filter.passes(&observed), passes, "{filter:?}");
        }
    }
}
