//! `cargo xtask bench`: where the project's figures come from.
//!
//! Each benchmark measures the agent, as it is released, beside others that do the same, on this
//! machine in one run. It makes its own sockets, in network namespaces of its own. All that it
//! starts ends with it, also when it is interrupted: workers end when their input is closed, the
//! agent when its parent is gone, namespaces with their last process, and the kernel's statistics
//! of programs with the descriptor that turned them on.

mod agent;
mod close_wait;
mod crew;
mod disturbance;
mod echo;
mod empty_program;
mod exposition;
mod hostile;
mod http;
mod instructions;
mod kernel_objects;
mod latency;
mod machine;
mod namespaces;
mod netns;
mod pass;
mod peers;
mod report;
mod ring;
mod row;
mod running;
mod scrape;
mod segments;
mod spread;
mod start;
mod stop;
mod traffic;
mod transition;
mod watchers;
mod where_in_code;
mod worker;

use std::{path::PathBuf, sync::OnceLock, time::Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use self::{
    machine::Machine,
    peers::Peers,
    report::{Benchmark, Report},
    row::Row,
};
use crate::test;

pub(crate) use self::{
    agent::{Agent, build as build_agent, target_folder},
    echo::serve as echo,
    exposition::Exposition,
    kernel_objects::{MapFacts, ProgramFacts},
    latency::{Settings as LatencySettings, run as measure_latency},
    segments::FLAG as SEGMENTS_FLAG,
    traffic::{Settings as WorkerSettings, run as work},
};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Name {
    Transition,
    Pass,
    Scrape,
    Namespaces,
    CloseWait,
    Ring,
    Segments,
    Start,
    Where,
    Hostile,
    Instructions,
}

impl Name {
    fn word(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    const fn subject(self) -> &'static str {
        match self {
            Self::Transition => "what a transition costs",
            Self::Pass => "looks at a million sockets",
            Self::Scrape => "scrapes and memory by number of sockets",
            Self::Namespaces => "many network namespaces",
            Self::CloseWait => "who keeps sockets in CLOSE_WAIT",
            Self::Ring => "records of abnormal ends",
            Self::Segments => "counting segments (XDP and TC)",
            Self::Where => "what `where` costs",
            Self::Start => "start, size and memory over time",
            Self::Hostile => "clients that take and do not give",
            Self::Instructions => "what the agent executes for each thing",
        }
    }

    fn run(self, bench: &mut Bench) -> Result<()> {
        match self {
            Self::Transition => transition::run(bench),
            Self::Pass => pass::run(bench),
            Self::Scrape => scrape::run(bench),
            Self::Namespaces => namespaces::run(bench),
            Self::CloseWait => close_wait::run(bench),
            Self::Ring => ring::run(bench),
            Self::Segments => segments::run(bench),
            Self::Where => where_in_code::run(bench),
            Self::Start => start::run(bench),
            Self::Hostile => hostile::run(bench),
            Self::Instructions => instructions::run(bench),
        }
    }
}

/// What the command line says.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) is_quick: bool,
    pub(crate) writes_docs: bool,
    /// All of them where it is empty.
    pub(crate) names: Vec<Name>,
}

/// What every benchmark works with.
struct Bench {
    is_quick: bool,
    /// The released binary.
    agent: PathBuf,
    peers: Peers,
    /// Of the benchmark that is running.
    rows: Vec<Row>,
    not_measured: Vec<String>,
}

impl Bench {
    /// One of two, by how long the run may take.
    const fn full_or_quick<T: Copy>(&self, full: T, quick: T) -> T {
        if self.is_quick { quick } else { full }
    }

    fn row(&mut self, row: Row) {
        progress(&format!(
            "{}: {}",
            row.what,
            row.unit.show_spread(row.figure)
        ));
        for peer in &row.peers {
            progress(&format!(
                "    {}: {}",
                peer.name,
                row.unit.show_spread(peer.figure)
            ));
        }
        self.rows.push(row);
    }

    /// Says loudly that something is not measured.
    fn skip(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        progress(&format!("NOT MEASURED: {reason}"));
        self.not_measured.push(reason);
    }
}

static START: OnceLock<Instant> = OnceLock::new();

/// Says how far it is.
pub(crate) fn progress(text: &str) {
    let seconds = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    eprintln!("{seconds:>7.1} s  {text}");
}

/// `cargo xtask bench`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !test::is_root()? {
        bail!("cannot measure: loading eBPF programs and making network namespaces takes root");
    }
    let start = *START.get_or_init(Instant::now);
    let machine = Machine::look()?;
    let agent = agent::build()?;
    let peers = Peers::provide();
    stop::catch_signals()?;
    let mut names = options.names.clone();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        names.extend(Name::value_variants());
    }
    let mut bench = Bench {
        is_quick: options.is_quick,
        agent,
        peers,
        rows: Vec::new(),
        not_measured: Vec::new(),
    };
    let mut benchmarks = Vec::new();
    for name in &names {
        progress(&format!("=== {}: {} ===", name.word(), name.subject()));
        let outcome = name.run(&mut bench);
        // After a signal everything fails: no more is begun.
        stop::check()?;
        if let Err(error) = &outcome {
            progress(&format!("FAILED: {error:#}"));
        }
        benchmarks.push(Benchmark {
            name: name.word(),
            subject: name.subject().to_owned(),
            rows: std::mem::take(&mut bench.rows),
            not_measured: std::mem::take(&mut bench.not_measured),
            failure: outcome.err().map(|error| format!("{error:#}")),
        });
    }
    let report = Report {
        schema_version: 1,
        machine,
        is_quick: options.is_quick,
        took_seconds: start.elapsed().as_secs_f64(),
        benchmarks,
    };
    println!("{}", report.text());
    progress(&format!("written to {}", report.save()?));
    for absent in &bench.peers.absent {
        test::banner(&format!("NOT COMPARED: {absent}"));
    }
    let failed: Vec<&str> = report
        .benchmarks
        .iter()
        .filter(|benchmark| benchmark.failure.is_some())
        .map(|benchmark| benchmark.name.as_str())
        .collect();
    if !failed.is_empty() {
        bail!("could not measure everything: {} failed", failed.join(", "));
    }
    if options.writes_docs {
        report.write_page()?;
        progress("docs/performance.md is written");
    }
    Ok(())
}
