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
    loading::watch_to_ask,
    output::{Output, print},
};
use crate::{
    code_location::helper::Helpers,
    collect::{close_wait::Report, listeners::ListeningReport, outgoing::ConnectionsReport},
    diagnosis::{Diagnosis, Filter, NamespacePaths, Watching, write_text},
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

/// What was seen at one time.
struct Looked {
    at: Instant,
    close_wait: Report,
    connections: Option<ConnectionsReport>,
    /// One look oneself finds out this too.
    listening: Option<ListeningReport>,
}

/// Looks once or twice, and prints what follows.
pub(super) fn execute(settings: &DiagnoseSettings) -> anyhow::Result<()> {
    let at = Instant::now();
    let asked = control::ask_close_wait(&settings.control_socket)?;
    let (source, first) = if let Some(close_wait) = asked {
        let first = Looked {
            at,
            close_wait,
            connections: connections_of_agent(settings),
            listening: None,
        };
        (Source::Agent(settings), first)
    } else {
        let watch = watch_to_ask(&ProgramId::ALL)?;
        let first = look(&watch)?;
        (Source::Own(Box::new(watch)), first)
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
    first: Looked,
    settings: &DiagnoseSettings,
) -> anyhow::Result<Diagnosis> {
    let ports_are_taken = first
        .connections
        .as_ref()
        .is_some_and(|connections| !connections.destinations.is_empty());
    let looks_twice =
        !settings.interval.is_zero() && (!first.close_wait.groups.is_empty() || ports_are_taken);
    let (mut before, mut last) = if looks_twice {
        thread::sleep(settings.interval.saturating_sub(first.at.elapsed()));
        (Some(first), source.look(ports_are_taken)?)
    } else {
        (None, first)
    };
    if last.connections.is_none() {
        // The second look left them out.
        last.connections = before.as_mut().and_then(|before| before.connections.take());
    }
    let mut watching = Watching::default();
    watching.tell(&mut last.close_wait, &settings.filter);
    if let Some(before) = &mut before {
        watching.tell(&mut before.close_wait, &settings.filter);
    }
    let before = before.as_ref();
    let interval = before.map(|before| last.at.saturating_duration_since(before.at));
    let namespaces = NamespacePaths::find();
    let mut diagnosis = Diagnosis::new(
        before.map(|before| &before.close_wait).zip(interval),
        last.close_wait,
        &settings.filter,
        matches!(source, Source::Agent(_)),
        &namespaces,
    );
    diagnosis.process_exists = settings
        .filter
        .pid
        .map(|pid| Path::new("/proc").join(pid.to_string()).exists());
    if let Some(listening) = last.listening.or_else(|| source.listening()) {
        diagnosis = diagnosis.with_listeners(listening, &settings.filter, &namespaces);
    }
    if let Some(connections) = last.connections {
        let first = before.and_then(|before| before.connections.as_ref());
        diagnosis = diagnosis.with_connections(
            first.zip(interval),
            connections,
            &settings.filter,
            &namespaces,
        );
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
    /// Looks again, and whether at connections too.
    fn look(&self, with_connections: bool) -> anyhow::Result<Looked> {
        match self {
            Self::Agent(settings) => {
                let at = Instant::now();
                let close_wait = control::ask_close_wait(&settings.control_socket)?;
                Ok(Looked {
                    at,
                    close_wait: close_wait.context("the agent has stopped meanwhile")?,
                    connections: with_connections
                        .then(|| connections_of_agent(settings))
                        .flatten(),
                    listening: None,
                })
            }
            Self::Own(watch) => look(watch),
        }
    }

    /// What listens, where an agent has to be asked for it and can tell.
    fn listening(&self) -> Option<ListeningReport> {
        match self {
            Self::Agent(settings) => control::ask_listeners(&settings.control_socket)
                .inspect_err(|error| debug!(error = format!("{error:#}"), "no listeners"))
                .unwrap_or_default(),
            Self::Own(_) => None,
        }
    }
}

/// Where connections go and which peers do not answer, where the agent can tell.
fn connections_of_agent(settings: &DiagnoseSettings) -> Option<ConnectionsReport> {
    control::ask_connections(&settings.control_socket)
        .inspect_err(|error| debug!(error = format!("{error:#}"), "no connections"))
        .unwrap_or_default()
}

/// One look oneself.
fn look(watch: &Watch) -> anyhow::Result<Looked> {
    const CANNOT: &str = "cannot tell who holds sockets here (`tcpstate-agent check` says why)";
    let at = Instant::now();
    let seen = watch.everything().context(CANNOT)?;
    let close_wait = seen.close_wait.context(CANNOT)?;
    Ok(Looked {
        at,
        close_wait: Report::new(&close_wait),
        connections: seen.connections.as_ref().map(ConnectionsReport::new),
        listening: Some(ListeningReport::new(&seen.listeners)),
    })
}
