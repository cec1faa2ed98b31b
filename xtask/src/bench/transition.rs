//! What the kernel pays for being watched: the program by itself, and a whole connection.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};

use super::{
    Bench,
    agent::{Agent, scratch},
    empty_program::EmptyProgram,
    kernel_objects::{self, Runs},
    netns::Namespace,
    progress,
    row::{Reach, Row, Unit},
    running::{self, Running},
    spread::{Spread, float},
    stop,
};

const PATIENCE: Duration = Duration::from_mins(1);
/// How long to let something that was just started come to rest.
const SETTLE: Duration = Duration::from_millis(300);
/// The same for others, which load their programs some time before they attach them.
const OTHERS_SETTLE: Duration = Duration::from_secs(2);

const PROGRAM: &str = "tcp_transition";
/// Older programs look below debugfs.
const WITH_TRACEFS: &str = "mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
exec \"$0\" \"$@\"";
const BPFTRACE: &str =
    "tracepoint:sock:inet_sock_set_state { @[args->oldstate, args->newstate] = count(); }";

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut namespace = Namespace::new()?;
    // The first connections of a namespace are slower.
    close(&mut namespace, 2_000)?;
    program_cost(bench, &mut namespace)?;
    cycle_ratio(bench, &mut namespace)
}

/// Makes and closes connections; the time it took.
fn close(namespace: &mut Namespace, count: u64) -> Result<Duration> {
    namespace
        .resident()
        .order(&format!("close {count}"), PATIENCE)
}

/// One who watches transitions.
enum Watcher {
    Run(Box<Agent>),
    Other(Running),
    /// Of this process.
    Empty(EmptyProgram),
}

impl Watcher {
    fn pid(&self) -> u32 {
        match self {
            Self::Run(agent) => agent.pid(),
            Self::Other(running) => running.pid(),
            Self::Empty(_) => std::process::id(),
        }
    }

    /// The programs that it has on transitions, all together; `None` where there are none.
    fn runs(&self) -> Result<Option<Runs>> {
        let programs = kernel_objects::programs_of(self.pid())?;
        let of_agent = programs.iter().find(|program| program.name == PROGRAM);
        if let Some(program) = of_agent {
            return Ok(Some(program.runs));
        }
        let nanoseconds = programs.iter().map(|program| program.runs.nanoseconds);
        let count = programs.iter().map(|program| program.runs.count).max();
        Ok(count.map(|count| Runs {
            nanoseconds: nanoseconds.sum(),
            count,
        }))
    }

    fn end(self) -> Result<()> {
        match self {
            Self::Run(agent) => agent.end(),
            Self::Other(running) => running.end(),
            Self::Empty(program) => {
                drop(program);
                Ok(())
            }
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Run,
    Trace,
    Empty,
    Bpftrace,
    Tcpstates,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Run => "the agent",
            Self::Trace => "the agent's trace",
            Self::Empty => "an empty program",
            Self::Bpftrace => "bpftrace, counting",
            Self::Tcpstates => "libbpf-tools' tcpstates",
        }
    }

    /// Starts it and waits until its programs are there; `None` where it is not on this machine.
    fn start(self, bench: &Bench) -> Result<Option<Watcher>> {
        let agent = &bench.agent;
        let mut command = match self {
            Self::Run => {
                let agent = Agent::start(agent, &[])?;
                stop::sleep(SETTLE)?;
                return Ok(Some(Watcher::Run(Box::new(agent))));
            }
            Self::Trace => {
                let mut command = running::bound(&agent.to_string_lossy());
                command.args(["trace", "--output=json"]);
                command
            }
            Self::Empty => return Ok(Some(Watcher::Empty(EmptyProgram::on_transitions()?))),
            Self::Bpftrace => match &bench.peers.bpftrace {
                Some(program) => other(program, &["-q", "-e", BPFTRACE]),
                None => return Ok(None),
            },
            Self::Tcpstates => match &bench.peers.tcpstates {
                Some(program) => other(program, &[]),
                None => return Ok(None),
            },
        };
        let words = scratch("watcher.log")?;
        let log =
            File::create(&words).with_context(|| format!("cannot create {}", words.display()))?;
        let mut running = Running::start(
            self.name(),
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        )?;
        let what = format!("{} has its program in the kernel", self.name());
        stop::until(PATIENCE, &what, || {
            if let Some(status) = running.has_ended()? {
                let words = fs::read_to_string(&words).unwrap_or_default();
                anyhow::bail!("{} has ended: {status}: {}", self.name(), words.trim());
            }
            let programs = kernel_objects::programs_of(running.pid())?;
            Ok((!programs.is_empty()).then_some(()))
        })?;
        stop::sleep(OTHERS_SETTLE)?;
        Ok(Some(Watcher::Other(running)))
    }
}

/// Others need tracefs, which need not be mounted. They get it in a mount namespace of their own,
/// so that there is nothing to restore.
fn other(program: &Path, arguments: &[&str]) -> Command {
    let mut command = running::bound("unshare");
    command
        .args(["--mount", "sh", "-c", WITH_TRACEFS])
        .arg(program)
        .args(arguments);
    command
}

fn program_cost(bench: &mut Bench, namespace: &mut Namespace) -> Result<()> {
    let empty = EmptyProgram::on_transitions()?;
    let _stats =
        enable_stats(Stats::RunTime).context("cannot have the kernel measure its eBPF programs")?;
    let mut above_empty = |who: Who| -> Result<Option<Spread>> {
        let segments = bench.full_or_quick(12, 4);
        let connections = bench.full_or_quick(10_000, 5_000);
        progress(&format!(
            "{} on {segments} times {connections} connections",
            who.name()
        ));
        let Some(watcher) = who.start(bench)? else {
            return Ok(None);
        };
        let runs = format!("the program of {} runs", who.name());
        stop::until(PATIENCE, &runs, || {
            close(namespace, 100)?;
            let runs = watcher.runs()?;
            Ok(runs.filter(|runs| runs.count > 0).map(drop))
        })?;
        let mut costs = Vec::new();
        for _ in 0..segments {
            let before = (watcher.runs()?, empty_runs(&empty)?);
            close(namespace, connections)?;
            let after = (watcher.runs()?, empty_runs(&empty)?);
            let name = who.name();
            let cost = before
                .0
                .zip(after.0)
                .and_then(|(before, after)| average(before, after));
            let cost = cost.with_context(|| format!("the program of {name} has not run"))?;
            let nothing = average(before.1, after.1).context("the empty program has not run")?;
            costs.push(cost - nothing);
        }
        watcher.end()?;
        Ok(Spread::of(costs))
    };
    let default = above_empty(Who::Run)?.context("no figure of the agent")?;
    let traced = above_empty(Who::Trace)?.context("no figure of the agent's trace")?;
    let mut others = Vec::new();
    let mut faults = Vec::new();
    for who in [Who::Bpftrace, Who::Tcpstates] {
        match above_empty(who) {
            Ok(cost) => others.push((who.name(), cost)),
            Err(error) => faults.push(format!("{}: {error:#}", who.name())),
        }
        stop::check()?;
    }
    let mut row = Row::new(
        "in the kernel, a transition, default settings",
        Unit::Seconds,
        default,
    )
    .reach(Reach::AtMost(60e-9));
    for (name, cost) in others {
        row = row.beside(name, cost);
    }
    bench.row(row);
    bench.row(Row::new(
        "in the kernel, a transition, with a record of each (trace)",
        Unit::Seconds,
        traced,
    ));
    for fault in faults {
        bench.skip(fault);
    }
    for absent in bench.peers.absent.clone() {
        bench.skip(absent);
    }
    Ok(())
}

fn empty_runs(empty: &EmptyProgram) -> Result<Runs> {
    kernel_objects::programs_of(std::process::id())?
        .iter()
        .find(|program| program.id == empty.id)
        .map(|program| program.runs)
        .context("the empty program is gone")
}

/// Seconds of a run.
fn average(before: Runs, after: Runs) -> Option<f64> {
    let count = after
        .count
        .checked_sub(before.count)
        .filter(|count| *count > 0)?;
    let nanoseconds = after.nanoseconds.checked_sub(before.nanoseconds)?;
    Some(float(nanoseconds) / float(count) * 1e-9)
}

/// Each pair is measured right after one another, and which comes first alternates.
fn cycle_ratio(bench: &mut Bench, namespace: &mut Namespace) -> Result<()> {
    let connections = bench.full_or_quick(20_000, 8_000);
    let mut base = Vec::new();
    let mut ratio = |who: Who, pairs: u32, base: &mut Vec<f64>| -> Result<Option<Spread>> {
        progress(&format!(
            "{pairs} pairs of {connections} connections with and without {}",
            who.name()
        ));
        let mut ratios = Vec::new();
        for pair in 0..pairs {
            let with = |namespace: &mut Namespace| -> Result<Option<Duration>> {
                let Some(watcher) = who.start(bench)? else {
                    return Ok(None);
                };
                let took = close(namespace, connections)?;
                watcher.end()?;
                Ok(Some(took))
            };
            let (with, without) = if pair % 2 == 0 {
                let with = with(namespace)?;
                (with, close(namespace, connections)?)
            } else {
                let without = close(namespace, connections)?;
                (with(namespace)?, without)
            };
            let Some(with) = with else {
                return Ok(None);
            };
            base.push(without.as_secs_f64() / float(connections));
            ratios.push(with.as_secs_f64() / without.as_secs_f64());
        }
        Ok(Spread::of(ratios))
    };
    let start = Instant::now();
    let pairs = bench.full_or_quick(31, 4);
    let ours = ratio(Who::Run, pairs, &mut base)?.context("no figure of the agent")?;
    progress(&format!("{:.0} s", start.elapsed().as_secs_f64()));
    let mut row = Row::new(
        "a connection made, accepted and closed, with the agent over without",
        Unit::Ratio,
        ours,
    )
    .reach(Reach::AtMost(1.03));
    let mut faults = Vec::new();
    for (who, pairs) in [
        // What the kernel takes to call any program.
        (Who::Empty, bench.full_or_quick(15, 2)),
        (Who::Bpftrace, bench.full_or_quick(9, 2)),
        (Who::Tcpstates, bench.full_or_quick(5, 2)),
    ] {
        match ratio(who, pairs, &mut base) {
            Ok(figure) => row = row.beside(who.name(), figure),
            Err(error) => faults.push(format!("{}: {error:#}", who.name())),
        }
        stop::check()?;
    }
    bench.row(row);
    let base = Spread::of(base).context("nothing measured without the agent")?;
    bench.row(Row::new(
        "such a connection without anything",
        Unit::Seconds,
        base,
    ));
    for fault in faults {
        bench.skip(fault);
    }
    Ok(())
}
