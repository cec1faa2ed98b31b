//! From peers that do not answer to what is wrong with them.

use serde::Serialize;

use super::{ReportUnanswered, UnansweredState};
use crate::{
    collect::{
        close_wait::{Verdict, advice::Advice},
        outgoing::bracketed,
        owners::ReportProcess,
    },
    diagnosis::{Filter, NamespacePaths},
};

/// Fewer connections that cannot be closed are no pile.
const PILE: u64 = 16;

/// Connections whose peers do not answer, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedUnanswered {
    /// The group, at the second look.
    #[serde(flatten)]
    pub group: ReportUnanswered,
    /// The process that listens on their local port, where that is a service's: it has had those that
    /// no process holds any more.
    pub listener: Option<ReportProcess>,
    /// `connecting`, `fin_wait2_held`, or `other`.
    pub verdict: Verdict,
    /// What is wrong, most likely.
    pub fault: &'static str,
    /// What to do.
    pub check: &'static str,
    /// A command that shows the sockets.
    pub command: String,
}

impl DiagnosedUnanswered {
    /// Whether it is something to worry about: a process waits, or many are closed and stay.
    pub(crate) const fn matters(group: &ReportUnanswered) -> bool {
        group.state.has_process() || group.sockets >= PILE
    }

    pub(crate) fn new(
        group: ReportUnanswered,
        listener: Option<ReportProcess>,
        namespaces: &NamespacePaths,
    ) -> Self {
        let verdict = match group.state {
            UnansweredState::SynSent => Verdict::Connecting,
            UnansweredState::FinWait2 => Verdict::FinWait2Held,
            UnansweredState::Established
            | UnansweredState::FinWait1
            | UnansweredState::Closing
            | UnansweredState::LastAck => Verdict::Other,
        };
        let (fault, check) = match group.state {
            UnansweredState::SynSent | UnansweredState::FinWait2 => {
                let Advice { fault, check, .. } = verdict.advice();
                (fault, check)
            }
            UnansweredState::Established => (
                "waits for a peer that is gone, or the way to it: it acknowledges nothing of what is \
                 sent",
                "the peer, and what is between (firewalls, NAT, load balancers that forget idle \
                 connections); timeouts in the program, TCP_USER_TIMEOUT, and keepalive with an \
                 interval shorter than theirs. The kernel gives up after net.ipv4.tcp_retries2 \
                 attempts, a quarter of an hour by default",
            ),
            UnansweredState::FinWait1 | UnansweredState::Closing | UnansweredState::LastAck => (
                "has closed, and the kernel still sends the rest to a peer that is gone, or the way to \
                 it",
                "the peer, and what is between (firewalls, NAT). The kernel gives up after \
                 net.ipv4.tcp_orphan_retries attempts, eight by default; until then they are \
                 orphans, and net.ipv4.tcp_max_orphans limits those",
            ),
        };
        Self {
            listener,
            verdict,
            fault,
            check,
            command: unanswered_command(&group, namespaces),
            group,
        }
    }
}

impl Filter {
    pub(crate) fn passes_unanswered(&self, group: &ReportUnanswered) -> bool {
        self.is_held(group.process.as_ref(), &group.shared_with)
            && self
                .port
                .is_none_or(|port| [group.remote_port, group.local_port].contains(&port))
    }
}

fn unanswered_command(group: &ReportUnanswered, namespaces: &NamespacePaths) -> String {
    let state = group.state.ss_name();
    let peer = group
        .remote_address
        .map_or_else(String::new, |peer| format!(" dst {}", bracketed(peer)));
    let command = format!("ss -tnpo state {state}{peer}");
    match group.namespace {
        // Many.
        0 => format!("sudo {command}"),
        namespace => namespaces.command(namespace, &command),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::unanswered, *};
    use crate::diagnosis::namespace_paths::tests::paths;

    #[test]
    fn one_dead_connection_matters_and_a_few_that_cannot_be_closed_do_not() {
        for (state, sockets, is_wrong) in [
            (UnansweredState::Established, 1, true),
            (UnansweredState::SynSent, 1, true),
            (UnansweredState::FinWait2, 1, true),
            (UnansweredState::FinWait1, 15, false),
            (UnansweredState::FinWait1, 16, true),
            (UnansweredState::LastAck, 16, true),
        ] {
            let matters = DiagnosedUnanswered::matters(&unanswered(state, sockets));
            assert_eq!(matters, is_wrong, "{state:?} {sockets}");
        }
    }

    #[test]
    fn the_command_shows_these_sockets() {
        let mut group = unanswered(UnansweredState::LastAck, 20);
        group.namespace = 7;
        group.remote_address = Some("fd00::1".parse().unwrap());
        assert_eq!(
            unanswered_command(&group, &paths()),
            "sudo nsenter --net=/proc/1/ns/net ss -tnpo state last-ack dst [fd00::1]"
        );
    }
}
