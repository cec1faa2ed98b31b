//! `diagnose`: who keeps sockets in CLOSE_WAIT, why, and what to do.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use tracing::debug;

use super::{
    control::ControlArgs,
    interval,
    loading::watch_once,
    output::{Output, print},
};
use crate::{
    code_location::helper::Helpers,
    collect::{listeners::ListeningReport, outgoing::ConnectionsReport},
    diagnosis::{Diagnosis, Filter, NamespacePaths, Report, write_text},
    engine::Watch,
    host::process::{command_line, executable},
    kernel::plan::ProgramId,
    serve::control,
};

/// Flags of `diagnose`.
#[derive(Args, Clone, Debug)]
pub(super) struct DiagnoseArgs {
    /// Only sockets that this process holds
    #[arg(
        long,
        env = "TCPSTATE_DIAGNOSE_PID",
        value_name = "PID",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(super) pid: Option<u32>,
    /// Only sockets of this service: for servers their own port, for clients the remote one
    #[arg(
        long,
        env = "TCPSTATE_DIAGNOSE_PORT",
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(super) port: Option<u16>,
    /// How many groups to show, the largest first
    #[arg(
        long,
        env = "TCPSTATE_DIAGNOSE_LIMIT",
        value_name = "COUNT",
        default_value_t = 20
    )]
    pub(super) limit: usize,
    /// Seconds between two looks, for telling growth; 0 looks once
    #[arg(
        long,
        env = "TCPSTATE_DIAGNOSE_INTERVAL",
        value_name = "SECONDS",
        default_value = "2",
        allow_negative_numbers = true,
        value_parser = interval
    )]
    pub(super) interval: Duration,
    /// Output format
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
    /// Where to ask a running agent.
    #[command(flatten)]
    pub(super) control: ControlArgs,
}

/// Settings of `diagnose`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiagnoseSettings {
    /// What to show.
    pub(super) filter: Filter,
    /// Time between two looks; zero for one look only.
    pub(super) interval: Duration,
    /// How to print it.
    pub(super) output: Output,
    /// Where a running agent is asked.
    pub(super) control_socket: PathBuf,
}

impl From<DiagnoseArgs> for DiagnoseSettings {
    fn from(args: DiagnoseArgs) -> Self {
        let DiagnoseArgs {
            pid,
            port,
            limit,
            interval,
            output,
            control,
        } = args;
        Self {
            filter: Filter { pid, port, limit },
            interval,
            output,
            control_socket: control.socket,
        }
    }
}

/// Whom to ask.
enum Source<'a> {
    /// The agent that runs.
    Agent(&'a DiagnoseSettings),
    /// Nobody: look oneself.
    Own(Box<Watch>),
}

/// Looks once or twice, and prints what follows.
pub(super) fn execute(settings: &DiagnoseSettings) -> anyhow::Result<()> {
    let (source, first) = match control::ask_close_wait(&settings.control_socket)? {
        Some(report) => (Source::Agent(settings), report),
        None => look_oneself()?,
    };
    let diagnosis = diagnose(&source, first, settings)?;
    print(|out| match settings.output {
        Output::Text => write_text(out, &diagnosis),
        Output::Json => {
            let json = serde_json::to_string(&diagnosis)?;
            writeln!(out, "{json}")
        }
    })?;
    Ok(())
}

fn diagnose(
    source: &Source<'_>,
    first: Report,
    settings: &DiagnoseSettings,
) -> anyhow::Result<Diagnosis> {
    let begun = Instant::now();
    let connections = source.connections();
    let looked = Instant::now();
    let ports_are_taken = connections
        .as_ref()
        .is_some_and(|connections| !connections.destinations.is_empty());
    let looks_twice = !settings.interval.is_zero() && (!first.groups.is_empty() || ports_are_taken);
    let (first, second) = if looks_twice {
        thread::sleep(settings.interval);
        let second = source.look()?;
        (Some((first, begun.elapsed())), second)
    } else {
        (None, first)
    };
    let (first_connections, connections) = if looks_twice && ports_are_taken {
        let second = source.connections();
        let first = connections.map(|connections| (connections, looked.elapsed()));
        (first, second)
    } else {
        (None, connections)
    };
    let namespaces = NamespacePaths::find();
    let mut diagnosis = Diagnosis::new(
        first.as_ref().map(|(report, interval)| (report, *interval)),
        second,
        &settings.filter,
        matches!(source, Source::Agent(_)),
        &namespaces,
    );
    diagnosis.process_exists = settings
        .filter
        .pid
        .map(|pid| Path::new("/proc").join(pid.to_string()).exists());
    if let Some(listening) = source.listening() {
        diagnosis = diagnosis.with_listeners(listening, &settings.filter, &namespaces);
    }
    if let Some(connections) = connections {
        let first = first_connections.as_ref();
        let first = first.map(|(report, interval)| (report, *interval));
        diagnosis = diagnosis.with_connections(first, connections, &settings.filter, &namespaces);
    }
    let mut helpers = Helpers::with_program("/proc/self/exe");
    for group in &mut diagnosis.groups {
        let Some(process) = &mut group.group.process else {
            continue;
        };
        group.command_line = command_line(process.id());
        // The agent may not be allowed to see what root is.
        if process.executable.is_none() {
            process.executable = executable(process.id());
        }
        if group.verdict.comes_of_waiting() {
            group.threads_wait = helpers.what_most_threads_wait_for(process.pid);
        }
    }
    Ok(diagnosis)
}

impl Source<'_> {
    fn look(&self) -> anyhow::Result<Report> {
        match self {
            Self::Agent(settings) => control::ask_close_wait(&settings.control_socket)?
                .context("the agent has stopped meanwhile"),
            Self::Own(watch) => look(watch),
        }
    }

    /// Where connections go and which peers do not answer, where that can be told.
    fn connections(&self) -> Option<ConnectionsReport> {
        match self {
            Self::Agent(settings) => control::ask_connections(&settings.control_socket)
                .inspect_err(|error| debug!(error = format!("{error:#}"), "no connections"))
                .unwrap_or_default(),
            Self::Own(watch) => watch
                .connections()
                .map(|found| ConnectionsReport::new(&found)),
        }
    }

    /// What listens, where that can be told.
    fn listening(&self) -> Option<ListeningReport> {
        match self {
            Self::Agent(settings) => control::ask_listeners(&settings.control_socket)
                .inspect_err(|error| debug!(error = format!("{error:#}"), "no listeners"))
                .unwrap_or_default(),
            Self::Own(watch) => watch.listeners().map(|found| ListeningReport::new(&found)),
        }
    }
}

fn look_oneself<'a>() -> anyhow::Result<(Source<'a>, Report)> {
    let watch = watch_once(&ProgramId::ALL)?;
    let report = look(&watch)?;
    Ok((Source::Own(Box::new(watch)), report))
}

fn look(watch: &Watch) -> anyhow::Result<Report> {
    let found = watch
        .close_wait()
        .context("cannot tell who holds sockets here (`tcpstate-agent check` says why)")?;
    Ok(Report::new(&found))
}
