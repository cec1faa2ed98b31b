//! What is wrong with the processes, and what to do about it, for a person.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use super::{DiagnosedGroup, Verdict, text::pids};
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
        if !said.insert((name, diagnosed.verdict)) {
            continue;
        }
        let alike = |other: &&&DiagnosedGroup| {
            let other_name = other.group.process.as_ref().map(|process| &process.name);
            (other_name, other.verdict) == (name, diagnosed.verdict)
        };
        let alike: Vec<&DiagnosedGroup> = groups.iter().filter(alike).copied().collect();
        match name {
            Some(name) => {
                let who = processes(name, &alike);
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

#[cfg(test)]
mod tests {
    use super::{super::text::tests::text, *};
    use crate::{
        collect::close_wait::{Cause, ReportGroup, Role},
        diagnosis::compare::tests::{group, report},
        host::process::RunState,
    };

    /// A group to which this verdict comes.
    fn judged(verdict: Verdict) -> Option<ReportGroup> {
        let mut found = group(4711, 8080, 30);
        let facts = &mut found.facts;
        let mut holder = facts.holder.unwrap_or_default();
        match verdict {
            Verdict::Stopped => holder.run_state = RunState::Stopped,
            Verdict::DescriptorsExhausted => {
                found.cause = Cause::Unaccepted;
                holder.is_out_of_descriptors = true;
            }
            Verdict::QueueOfDead => {
                found.cause = Cause::Unaccepted;
                facts.accepts = Some(true);
            }
            Verdict::BlockedAccept => found.cause = Cause::Unaccepted,
            Verdict::Inherited => {
                holder.listens = false;
                holder.is_kin_of_listener = false;
            }
            Verdict::Draining => facts.is_listened = false,
            Verdict::SendBlocked => {
                found.cause = Cause::FinUnread;
                facts.unacknowledged_sockets = 30;
                found.unacknowledged_bytes = 30 * 2_500_000;
            }
            Verdict::HalfClose => facts.answered_sockets = 30,
            Verdict::ProxyWaits => holder.other_sides = 30,
            Verdict::InService => {
                found.cause = Cause::FinUnread;
                found.oldest_age_seconds = 20.0;
            }
            Verdict::IdlePool => {
                found.role = Role::Client;
                found.cause = Cause::DataUnread;
                found.unread_bytes = 30 * 31;
                facts.least_unread_bytes = 31;
                facts.most_unread_bytes = 31;
            }
            Verdict::UnreadResponse => {
                found.role = Role::Client;
                found.cause = Cause::FinUnread;
                facts.is_growing = true;
            }
            Verdict::StuckConsumer => found.cause = Cause::FinUnread,
            Verdict::Leak => {}
            Verdict::Other => {
                facts.holder = None;
                found.process = None;
                return Some(found);
            }
            // Not of sockets in CLOSE_WAIT.
            Verdict::FinWait2Held | Verdict::Connecting => return None,
        }
        facts.holder = Some(holder);
        Some(found)
    }

    #[test]
    fn each_verdict_is_named_and_what_to_do_is_its_own_advice() {
        for verdict in Verdict::ALL {
            let Some(found) = judged(verdict) else {
                continue;
            };
            let has_process = found.process.is_some();
            let text = text(None, report(vec![found]), true);
            let line = format!("   verdict   {}\n", verdict.name());
            assert!(text.contains(&line), "{text}");
            if has_process {
                let advice = verdict.advice();
                let fault = format!("- python3 (pid 4711) {}.\n", advice.fault);
                let check = format!("  Check {}.\n", advice.check);
                assert!(text.contains(&fault) && text.contains(&check), "{text}");
            }
        }
    }
}
