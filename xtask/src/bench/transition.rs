//! What the kernel pays for being watched: the program by itself, and a whole connection.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};

use super::{
    Bench,
    empty_program::EmptyProgram,
    kernel_objects::{self, Runs},
    netns::Namespace,
    progress,
    row::{Reach, Row, Unit},
    spread::{Spread, float},
    stop,
    watchers::{Watcher, Who},
};
use crate::path_cost::{self, PathCost};

const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut namespace = Namespace::new()?;
    // The first connections of a namespace are slower.
    close(&mut namespace, 2_000)?;
    step_costs(bench)?;
    program_cost(bench, &mut namespace)?;
    cycle_ratio(bench, &mut namespace)
}

/// Makes and closes connections; the time it took.
fn close(namespace: &mut Namespace, count: u64) -> Result<Duration> {
    namespace
        .resident()
        .order(&format!("close {count}"), PATIENCE)
}

/// What a transition costs each of those who are attached beside one another, above an empty
/// program: they see the same transitions in the same minutes, so that what else the machine does
/// meets all of them.
struct SideBySide {
    empty: EmptyProgram,
    segments: u64,
    connections: u64,
}

impl SideBySide {
    /// Starts them in this order and measures. For each segment of connections, what each took; of
    /// those that are not on this machine, nothing.
    fn measure(
        &self,
        bench: &Bench,
        namespace: &mut Namespace,
        order: &[Who],
    ) -> Result<Vec<(Who, Vec<f64>)>> {
        let names: Vec<&str> = order.iter().map(|who| who.name()).collect();
        let (segments, connections) = (self.segments, self.connections);
        progress(&format!(
            "{} on {segments} times {connections} connections",
            names.join(", then ")
        ));
        let mut watchers = Vec::new();
        for who in order {
            if let Some(watcher) = who.start(bench)? {
                watchers.push((*who, watcher, Vec::new()));
            }
        }
        for (who, watcher, _) in &watchers {
            let runs = format!("the program of {} runs", who.name());
            stop::until(PATIENCE, &runs, || {
                close(namespace, 100)?;
                let runs = watcher.runs()?;
                Ok(runs.filter(|runs| runs.count > 0).map(drop))
            })?;
        }
        for (who, watcher, _) in &watchers {
            if *who == Who::LaggingTrace {
                watcher.stand_still()?;
                // What its ring has room for, and more.
                close(namespace, connections)?;
            }
        }
        let runs_of = |watchers: &[(Who, Watcher, Vec<f64>)]| -> Result<Vec<Option<Runs>>> {
            watchers
                .iter()
                .map(|(_, watcher, _)| watcher.runs())
                .collect()
        };
        for _ in 0..segments {
            let before = (runs_of(&watchers)?, empty_runs(&self.empty)?);
            close(namespace, connections)?;
            let after = (runs_of(&watchers)?, empty_runs(&self.empty)?);
            let nothing = average(before.1, after.1).context("the empty program has not run")?;
            for ((who, _, costs), (before, after)) in
                watchers.iter_mut().zip(before.0.into_iter().zip(after.0))
            {
                let cost = before
                    .zip(after)
                    .and_then(|(before, after)| average(before, after));
                let name = who.name();
                let cost = cost.with_context(|| format!("the program of {name} has not run"))?;
                costs.push(cost - nothing);
            }
        }
        let mut costs = Vec::new();
        for (who, watcher, of_it) in watchers {
            watcher.end()?;
            costs.push((who, of_it));
        }
        Ok(costs)
    }
}

fn program_cost(bench: &mut Bench, namespace: &mut Namespace) -> Result<()> {
    let side_by_side = SideBySide {
        empty: EmptyProgram::on_transitions()?,
        segments: bench.full_or_quick(12, 4),
        connections: bench.full_or_quick(10_000, 5_000),
    };
    let _stats =
        enable_stats(Stats::RunTime).context("cannot have the kernel measure its eBPF programs")?;
    // Who is attached first is called first, and finds the socket out of the caches.
    let (mut default, mut count) = (Vec::new(), Vec::new());
    for order in [[Who::Run, Who::Bpftrace], [Who::Bpftrace, Who::Run]] {
        for (who, costs) in side_by_side.measure(bench, namespace, &order)? {
            match who {
                Who::Run => default.extend(costs),
                _ => count.extend(costs),
            }
        }
    }
    let over_count: Vec<f64> = default
        .iter()
        .zip(&count)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    let mut alone = |who: Who| -> Result<Option<Spread>> {
        let costs = side_by_side.measure(bench, namespace, &[who])?;
        Ok(costs
            .into_iter()
            .next()
            .and_then(|(_, costs)| Spread::of(costs)))
    };
    let traced = alone(Who::Trace)?.context("no figure of the agent's trace")?;
    let lagging = alone(Who::LaggingTrace)?.context("no figure of a trace that lags")?;
    let tcpstates = alone(Who::Tcpstates);
    stop::check()?;
    let mut row = Row::new(
        "in the kernel, a transition, default settings",
        Unit::Seconds,
        Spread::of(default).context("no figure of the agent")?,
    )
    .reach(Reach::AtMost(60e-9))
    .beside(Who::Bpftrace.name(), Spread::of(count));
    let fault = match tcpstates {
        Ok(cost) => {
            row = row.beside(Who::Tcpstates.name(), cost);
            None
        }
        Err(error) => Some(format!("{}: {error:#}", Who::Tcpstates.name())),
    };
    bench.row(row);
    if let Some(over_count) = Spread::of(over_count) {
        bench.row(
            Row::new(
                "the same, over bpftrace's bare count of the same transitions",
                Unit::Ratio,
                over_count,
            )
            .reach(Reach::AtMost(1.0)),
        );
    }
    bench.row(
        Row::new(
            "in the kernel, a transition, with a record of each (trace)",
            Unit::Seconds,
            traced,
        )
        .reach(Reach::AtMost(300e-9)),
    );
    bench.row(
        Row::new(
            "the same, its reader standing still, so that records are lost",
            Unit::Seconds,
            lagging,
        )
        .reach(Reach::AtMost(300e-9)),
    );
    if let Some(fault) = fault {
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

/// What the program takes for each step of a connection, as `cargo xtask limits` holds it: which part
/// of it has become dearer.
fn step_costs(bench: &mut Bench) -> Result<()> {
    let steps = path_cost::of_connection()?;
    for (step, cost) in &steps {
        let PathCost {
            instructions,
            helper_calls,
        } = *cost;
        bench.row(
            Row::new(
                format!("instructions for {step}"),
                Unit::Count,
                Spread::single(float(instructions)),
            )
            .note(format!("{helper_calls} helper calls among them")),
        );
    }
    let all = steps.values().map(|cost| cost.instructions).sum();
    bench.row(Row::new(
        "instructions for a connection, both of its ends",
        Unit::Count,
        Spread::single(float(all)),
    ));
    Ok(())
}

/// Seconds for a connection while somebody watches; `None` where that is not on this machine.
fn cycle(
    bench: &Bench,
    namespace: &mut Namespace,
    who: Option<Who>,
    connections: u64,
) -> Result<Option<f64>> {
    let watcher = match who {
        Some(who) => match who.start(bench)? {
            Some(watcher) => Some(watcher),
            None => return Ok(None),
        },
        None => None,
    };
    let took = close(namespace, connections)?;
    if let Some(watcher) = watcher {
        watcher.end()?;
    }
    Ok(Some(took.as_secs_f64() / float(connections)))
}

/// Connections with nobody, with each of `watchers`, right after one another; who comes first goes
/// round. Of each round, what a connection took with each of them; nothing where one of them is not
/// on this machine.
fn rounds<const WATCHERS: usize>(
    bench: &Bench,
    namespace: &mut Namespace,
    watchers: [Option<Who>; WATCHERS],
    count: usize,
) -> Result<Vec<[f64; WATCHERS]>> {
    let connections = bench.full_or_quick(20_000, 8_000);
    let names: Vec<&str> = watchers.iter().flatten().map(|who| who.name()).collect();
    progress(&format!(
        "{count} times {connections} connections with and without {}",
        names.join(" and ")
    ));
    let mut rounds = Vec::new();
    for round in 0..count {
        let mut took = [0.0; WATCHERS];
        for turn in 0..WATCHERS {
            let at = (round + turn) % WATCHERS;
            match cycle(bench, namespace, watchers[at], connections)? {
                Some(seconds) => took[at] = seconds,
                None => return Ok(Vec::new()),
            }
        }
        rounds.push(took);
    }
    Ok(rounds)
}

fn cycle_ratio(bench: &mut Bench, namespace: &mut Namespace) -> Result<()> {
    let ours = rounds(
        bench,
        namespace,
        // Calling any program costs something, which the second row leaves out.
        [None, Some(Who::Empty), Some(Who::Run)],
        bench.full_or_quick(31, 4),
    )?;
    let spread = |of: fn(&[f64; 3]) -> f64| Spread::of(ours.iter().map(of).collect::<Vec<_>>());
    let none = "no figure of the agent";
    let agent = spread(|[without, _, agent]| agent / without).context(none)?;
    let less_empty = spread(|[without, empty, agent]| 1.0 + (agent - empty) / without);
    let less_empty = less_empty.context(none)?;
    let base = spread(|[without, _, _]| *without).context(none)?;
    let mut row = Row::new(
        "a connection made, accepted and closed, with the agent over without",
        Unit::Ratio,
        agent,
    )
    .reach(Reach::AtMost(1.03))
    .beside(
        Who::Empty.name(),
        spread(|[without, empty, _]| empty / without),
    );
    let mut faults = Vec::new();
    for (who, count) in [
        (Who::Bpftrace, bench.full_or_quick(9, 2)),
        (Who::Tcpstates, bench.full_or_quick(5, 2)),
    ] {
        match rounds(bench, namespace, [None, Some(who)], count) {
            Ok(rounds) => {
                let ratios = rounds.iter().map(|[without, with]| with / without);
                row = row.beside(who.name(), Spread::of(ratios.collect::<Vec<_>>()));
            }
            Err(error) => faults.push(format!("{}: {error:#}", who.name())),
        }
        stop::check()?;
    }
    bench.row(row);
    bench.row(
        Row::new(
            "the same, less what an empty program costs",
            Unit::Ratio,
            less_empty,
        )
        .reach(Reach::AtMost(1.02)),
    );
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
