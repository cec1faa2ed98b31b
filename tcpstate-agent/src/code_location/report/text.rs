//! The report for people.

use std::io::{self, Write};

use super::{Place, Report, SocketGroup, WatchFound, advice::advice};
use crate::host::process::terminal_text;

/// Frames of a stack that are printed; all of them are in the JSON.
const FRAMES: usize = 16;
/// Groups of threads that are printed.
const THREAD_GROUPS: usize = 12;

/// Writes the report.
pub fn write_text(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let process = &report.process;
    let name = terminal_text(process.name.as_bytes());
    writeln!(out, "{name} (pid {})", process.pid)?;
    if !report.others.is_empty() {
        let others: Vec<String> = report
            .others
            .iter()
            .take(5)
            .map(|other| format!("{} ({} in CLOSE_WAIT)", other.pid, other.close_wait))
            .collect();
        writeln!(
            out,
            "{} other processes fit too, with fewer sockets in CLOSE_WAIT: {} (choose with --pid)",
            report.others.len(),
            others.join(", ")
        )?;
    }
    if let Some(watch) = &report.watch {
        write_watch(out, watch)?;
    }
    if !report.sockets_read {
        writeln!(
            out,
            "\nits sockets could not be read: whether any stays in CLOSE_WAIT is not known"
        )?;
    } else if report.groups.is_empty() {
        writeln!(out, "\nno socket of it stays in CLOSE_WAIT")?;
    }
    for (number, group) in report.groups.iter().enumerate() {
        write_group(out, number + 1, group, report.watch.is_some())?;
    }
    if !report.threads.is_empty() {
        writeln!(out, "\nthreads now")?;
    }
    for group in report.threads.iter().take(THREAD_GROUPS) {
        write!(out, "  {}", group.line())?;
        match &group.kernel_function {
            Some(function) => writeln!(out, " [kernel: {function}]")?,
            None => writeln!(out)?,
        }
    }
    if report.threads.len() > THREAD_GROUPS {
        let more = report.threads.len() - THREAD_GROUPS;
        writeln!(out, "  and {more} more groups (--output json has all)")?;
    }
    if !report.notes.is_empty() {
        writeln!(out)?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

fn write_watch(out: &mut dyn Write, watch: &WatchFound) -> io::Result<()> {
    let events = watch.events;
    writeln!(
        out,
        "watched for {:.1} s: {} connects, {} accepts{}, {} reads, {} of them at the end of file",
        watch.seconds,
        events.connects,
        events.accepts,
        if watch.accepts_by.is_none() {
            " (not watched, see --accept)"
        } else {
            ""
        },
        events.reads + events.end_reads,
        events.end_reads,
    )?;
    writeln!(
        out,
        "{} connections came into CLOSE_WAIT, {} were closed, {} came less than a second ago",
        watch.entered_close_wait, watch.left_close_wait, watch.recent
    )?;
    if watch.samples < watch.samples_wanted {
        writeln!(
            out,
            "sampled {} of {}: more would have slowed the process down",
            watch.samples, watch.samples_wanted
        )?;
    }
    if watch.dropped > 0 {
        writeln!(
            out,
            "{} of the samples are of no use: there were more stacks than fit or could be followed \
             in time",
            watch.dropped
        )?;
    }
    if watch.malformed > 0 {
        writeln!(out, "{} samples made no sense", watch.malformed)?;
    }
    if watch.untracked > 0 {
        writeln!(
            out,
            "{} events were of sockets beyond those that can be followed at once, and are in no \
             group",
            watch.untracked
        )?;
    }
    if watch.has_ended {
        writeln!(out, "the process has ended meanwhile")?;
    }
    Ok(())
}

fn write_group(
    out: &mut dyn Write,
    number: usize,
    group: &SocketGroup,
    was_watched: bool,
) -> io::Result<()> {
    let sockets = if group.sockets == 1 {
        "socket stays"
    } else {
        "sockets stay"
    };
    let peers: Vec<String> = group
        .peers
        .iter()
        .map(|peer| format!("{} ({})", peer.address, peer.sockets))
        .collect();
    write!(
        out,
        "\n{number}. {} {sockets} in CLOSE_WAIT, cause {}",
        group.sockets, group.cause,
    )?;
    if !peers.is_empty() {
        write!(out, "; peers {}", peers.join(", "))?;
    }
    if let Some(namespace) = group.namespace {
        write!(
            out,
            "; in network namespace {namespace}, in which no thread of the process is"
        )?;
    }
    writeln!(out)?;
    if let Some(advice) = advice(group, was_watched) {
        writeln!(out, "   {advice}")?;
    }
    if group.unsampled > 0 {
        writeln!(
            out,
            "   {} of them came too fast to be sampled",
            group.unsampled
        )?;
    }
    let last = if group.end_was_read {
        "last read, which saw the end of file"
    } else {
        "last read"
    };
    write_place(out, last, group.last_read.as_ref())?;
    // With the same functions in it, it says nothing new.
    let summary = |place: &Option<Place>| place.as_ref().map(|place| place.summary.clone());
    if summary(&group.first_read) != summary(&group.last_read) {
        write_place(out, "first read", group.first_read.as_ref())?;
    }
    write_place(out, "opened", group.opened.as_ref())?;
    write_place(out, "accepted", group.accepted.as_ref())
}

fn write_place(out: &mut dyn Write, what: &str, place: Option<&Place>) -> io::Result<()> {
    let Some(place) = place else { return Ok(()) };
    writeln!(out, "   {what} at {}", place.summary)?;
    // Libraries below the program's own code say nothing that the line above does not.
    let own = place.frames.iter().position(|frame| frame.own);
    let from = own.unwrap_or(0);
    for frame in place.frames.iter().skip(from).take(FRAMES) {
        let inlined = if frame.inlined { ", inlined" } else { "" };
        writeln!(out, "       {}{inlined}", frame.text())?;
    }
    let left = place.frames.len().saturating_sub(from + FRAMES);
    if left > 0 {
        writeln!(out, "       and {left} more")?;
    } else if !place.complete {
        writeln!(out, "       (the stack could not be followed further)")?;
    }
    Ok(())
}
