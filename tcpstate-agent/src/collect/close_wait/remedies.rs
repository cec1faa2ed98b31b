//! What is wrong with the processes, and what to do about it, for a person.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use super::{
    DiagnosedGroup, Verdict,
    text::{owner, pids},
};
use crate::diagnosis::{
    Diagnosis,
    words::{counted, duration, some_of, terminal},
};

/// What is wrong, once for all processes of one name and each verdict; those first that cannot run.
pub(super) fn write_remedies(out: &mut dyn Write, diagnosis: &Diagnosis) -> io::Result<()> {
    let mut groups: Vec<&DiagnosedGroup> = diagnosis.groups.iter().collect();
    groups.sort_by_key(|group| group.verdict != Verdict::Stopped);
    let mut said = BTreeSet::new();
    for diagnosed in &groups {
        let group = &diagnosed.group;
        let name = group.process.as_ref().map(|process| &process.name);
        let kind = |other: &DiagnosedGroup| {
            let process = other.group.process.as_ref();
            // Of some it is not known which of several processes it is.
            let who = match process {
                Some(_) if other.group.facts.is_one_of => Some(owner(&other.group)),
                process => process.map(|process| process.name.clone()),
            };
            (who, other.verdict)
        };
        if !said.insert(kind(diagnosed)) {
            continue;
        }
        let alike = |other: &&&DiagnosedGroup| kind(other) == kind(diagnosed);
        let alike: Vec<&DiagnosedGroup> = groups.iter().filter(alike).copied().collect();
        match name {
            Some(name) => {
                let who = if group.facts.is_one_of {
                    owner(group)
                } else {
                    processes(name, &alike)
                };
                writeln!(out, "- {who} {}.", diagnosed.fault)?;
                writeln!(out, "  Check {}.", diagnosed.check)?;
            }
            None => writeln!(
                out,
                "- {} on port {} belong to no descriptor of any process that this kernel shows: \
                 they are on the way from one to another (SCM_RIGHTS), registered with io_uring, or \
                 the kernel's own.",
                counted(group.sockets, "socket"),
                group.port
            )?,
        }
        let left = alike
            .iter()
            .filter_map(|group| group.fds_exhausted_in_seconds);
        let left = left.fold(f64::INFINITY, f64::min);
        if left == 0.0 {
            writeln!(
                out,
                "  No descriptor is left: it can accept and open nothing more."
            )?;
        } else if left < 86_400.0 {
            writeln!(
                out,
                "  No descriptor is left in about {}; then it can accept and open nothing more.",
                duration(left)
            )?;
        }
    }
    writeln!(
        out,
        "Only the processes can end these sockets: by close(), or by being restarted."
    )
}

/// `name (pid 1, 2 and 3 more)`.
fn processes(name: &str, groups: &[&DiagnosedGroup]) -> String {
    let pids: BTreeSet<u32> = groups.iter().flat_map(|group| pids(&group.group)).collect();
    format!("{} (pid {})", terminal(name), some_of(pids.into_iter()))
}
