//! `diagnose`: who keeps sockets in CLOSE_WAIT, why, and what to do.

use std::{os::unix::fs::MetadataExt as _, thread, time::Instant};

use anyhow::Context as _;
use tracing::debug;

use super::{DiagnoseSettings, print, watch_once};
use crate::{
    cli::Output,
    code_location::helper::Helpers,
    collect::{
        close_wait::comes_of_waiting, listeners::ListeningReport, outgoing::ConnectionsReport,
    },
    diagnosis::{Diagnosis, Report, write_text},
    engine::Watch,
    host::process::{command_line, executable},
    kernel::plan::ProgramId,
    serve::control,
};

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
    let own_namespace = std::fs::metadata("/proc/self/ns/net")
        .context("cannot open one's own network namespace")?
        .ino();
    let own_namespace = u32::try_from(own_namespace).unwrap_or_default();
    let mut diagnosis = Diagnosis::new(
        first.as_ref().map(|(report, interval)| (report, *interval)),
        second,
        &settings.filter,
        matches!(source, Source::Agent(_)),
        own_namespace,
    );
    if let Some(listening) = source.listening() {
        diagnosis = diagnosis.with_listeners(listening, &settings.filter, own_namespace);
    }
    if let Some(connections) = connections {
        let first = first_connections.as_ref();
        let first = first.map(|(report, interval)| (report, *interval));
        diagnosis = diagnosis.with_connections(first, connections, &settings.filter, own_namespace);
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
        if comes_of_waiting(group.group.cause) {
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
