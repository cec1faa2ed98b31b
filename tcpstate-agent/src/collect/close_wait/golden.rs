//! What a person reads of each verdict, whole: `golden.txt` has it, so that every word that changes is
//! seen in review.

use super::{Verdict, text::tests::text};
use crate::{
    collect::{
        close_wait::{Cause, ReportGroup, Role},
        unanswered::{
            DiagnosedUnanswered, UnansweredState, report::tests::unanswered, write_unanswered,
        },
    },
    diagnosis::{
        compare::tests::{group, report},
        namespace_paths::tests::paths,
    },
    host::process::RunState,
};

/// What is kept.
const KEPT: &str = include_str!("golden.txt");

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
            found.shared_with.clear();
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

/// The report of one group that is judged so.
fn whole(verdict: Verdict) -> String {
    if let Some(found) = judged(verdict) {
        return text(None, report(vec![found]), true);
    }
    let state = match verdict {
        Verdict::Connecting => UnansweredState::SynSent,
        _ => UnansweredState::FinWait2,
    };
    let diagnosed = DiagnosedUnanswered::new(unanswered(state, 30), None, &paths());
    assert_eq!(diagnosed.verdict, verdict);
    let mut text = Vec::new();
    write_unanswered(&mut text, &[diagnosed]).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn each_verdict_has_the_text_that_is_kept() {
    let mut told = String::new();
    for verdict in Verdict::ALL {
        let text = whole(verdict);
        for part in ["=== ", verdict.name(), "\n", text.as_str(), "\n"] {
            told.push_str(part);
        }
    }
    assert!(told == KEPT, "golden.txt should be:\n{told}");
}
