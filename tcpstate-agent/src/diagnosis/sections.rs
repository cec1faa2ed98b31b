//! The report for a person, section by section.

use std::io::{self, Write};

use super::{
    Diagnosis,
    words::{count, counted},
};
use crate::collect::{
    close_wait::{write_close_wait, write_mptcp},
    listeners::write_troubles,
    outgoing::write_destinations,
    unanswered::write_unanswered,
};

/// Writes what there is to say, and what to do about it.
pub fn write_text(out: &mut dyn Write, diagnosis: &Diagnosis) -> io::Result<()> {
    let troubles = diagnosis.listeners.as_deref().unwrap_or_default();
    let destinations = diagnosis.destinations.as_deref().unwrap_or_default();
    let unanswered = diagnosis.unanswered.as_deref().unwrap_or_default();
    let mptcp = &diagnosis.mptcp[..];
    let others = !(mptcp.is_empty()
        && troubles.is_empty()
        && destinations.is_empty()
        && unanswered.is_empty());
    if !others {
        return write_close_wait(out, diagnosis);
    }
    let mut is_first = true;
    let mut space = |out: &mut dyn Write| {
        if std::mem::replace(&mut is_first, false) {
            Ok(())
        } else {
            writeln!(out)
        }
    };
    if diagnosis.is_something_wrong() {
        space(out)?;
        write_close_wait(out, diagnosis)?;
    }
    if !mptcp.is_empty() {
        space(out)?;
        write_mptcp(out, mptcp)?;
        write_not_shown(out, diagnosis.not_shown.mptcp, "group")?;
    }
    if !troubles.is_empty() {
        space(out)?;
        write_troubles(out, troubles)?;
        write_not_shown(out, diagnosis.not_shown.listeners, "listener")?;
    }
    if !destinations.is_empty() {
        space(out)?;
        write_destinations(out, destinations)?;
        write_not_shown(out, diagnosis.not_shown.destinations, "destination")?;
    }
    if !unanswered.is_empty() {
        space(out)?;
        write_unanswered(out, unanswered)?;
        write_not_shown(out, diagnosis.not_shown.unanswered, "group")?;
    }
    Ok(())
}

/// Writes how many more there are.
fn write_not_shown(out: &mut dyn Write, number: usize, what: &str) -> io::Result<()> {
    match number {
        0 => Ok(()),
        some => writeln!(
            out,
            "\nNot shown: {} more (--limit).",
            counted(count(some), what)
        ),
    }
}
