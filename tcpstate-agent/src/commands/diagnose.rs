//! `diagnose`: who keeps sockets in CLOSE_WAIT, why, and what to do.

use std::{os::unix::fs::MetadataExt as _, thread, time::Instant};

use anyhow::Context as _;

use super::{print, watch_once};
use crate::{
    bpf::plan::ProgramId,
    cli::Output,
    control,
    diagnosis::{Diagnosis, Report, write_text},
    netns::Visitor,
    process::command_line,
    settings::DiagnoseSettings,
    watch::Watch,
};

/// Whom to ask.
enum Source<'a> {
    /// The agent that runs.
    Agent(&'a DiagnoseSettings),
    /// Nobody: look oneself.
    Own(Box<Watch>, Visitor),
}

/// Looks once or twice, and prints what follows.
pub fn execute(settings: &DiagnoseSettings) -> anyhow::Result<()> {
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
    let (first, second) = if settings.interval.is_zero() || first.groups.is_empty() {
        (None, first)
    } else {
        thread::sleep(settings.interval);
        let second = source.look()?;
        (Some((first, begun.elapsed())), second)
    };
    let own_namespace = std::fs::metadata("/proc/self/ns/net")
        .context("cannot open one's own network namespace")?
        .ino();
    let mut diagnosis = Diagnosis::new(
        first.as_ref().map(|(report, interval)| (report, *interval)),
        second,
        &settings.filter,
        matches!(source, Source::Agent(_)),
        u32::try_from(own_namespace).unwrap_or_default(),
    );
    for group in &mut diagnosis.groups {
        let process = group.group.process.as_ref();
        group.command_line = process.and_then(|process| command_line(process.pid));
    }
    Ok(diagnosis)
}

impl Source<'_> {
    fn look(&self) -> anyhow::Result<Report> {
        match self {
            Self::Agent(settings) => control::ask_close_wait(&settings.control_socket)?
                .context("the agent has stopped meanwhile"),
            Self::Own(watch, visitor) => look(watch, visitor),
        }
    }
}

fn look_oneself<'a>() -> anyhow::Result<(Source<'a>, Report)> {
    let watch = watch_once(&ProgramId::ALL)?;
    let visitor = Visitor::new().context("cannot open one's own network namespace")?;
    let report = look(&watch, &visitor)?;
    Ok((Source::Own(Box::new(watch), visitor), report))
}

fn look(watch: &Watch, visitor: &Visitor) -> anyhow::Result<Report> {
    let found = watch
        .close_wait(visitor)
        .context("cannot tell who holds sockets here (`tcpstate-agent check` says why)")?;
    Ok(Report::new(&found))
}
