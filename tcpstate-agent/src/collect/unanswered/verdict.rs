//! From peers that do not answer to what is wrong with them.

use serde::Serialize;

use super::{ReportUnanswered, UnansweredState};
use crate::{
    collect::outgoing::bracketed,
    diagnosis::{Filter, compare::way_in},
};

/// Fewer connections that cannot be closed are no pile.
const PILE: u64 = 16;

/// Connections whose peers do not answer, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedUnanswered {
    /// The group, at the second look.
    #[serde(flatten)]
    pub group: ReportUnanswered,
    /// What is wrong, most likely.
    pub fault: &'static str,
    /// What to do.
    pub check: &'static str,
    /// A command that shows the sockets.
    pub command: String,
}

impl DiagnosedUnanswered {
    /// `None` where it is nothing to worry about.
    pub(crate) fn new(group: ReportUnanswered, own_namespace: u32) -> Option<Self> {
        let is_established = group.state == UnansweredState::Established;
        if !is_established && group.sockets < PILE {
            return None;
        }
        Some(Self {
            fault: if is_established {
                "the peer is gone, or the way to it: it acknowledges nothing of what is sent, and \
                 the process still waits"
            } else {
                "the peer is gone, or the way to it: the process has closed, and the kernel still \
                 sends the rest"
            },
            check: if is_established {
                "the peer, and what is between (firewalls, NAT, load balancers that forget idle \
                 connections); timeouts in the program, TCP_USER_TIMEOUT, and keepalive with an \
                 interval shorter than theirs. The kernel gives up after net.ipv4.tcp_retries2 \
                 attempts, a quarter of an hour by default"
            } else {
                "the peer, and what is between (firewalls, NAT). The kernel gives up after \
                 net.ipv4.tcp_orphan_retries attempts, eight by default; until then they are \
                 orphans, and net.ipv4.tcp_max_orphans limits those"
            },
            command: unanswered_command(&group, own_namespace),
            group,
        })
    }
}

impl Filter {
    pub(crate) fn passes_unanswered(&self, group: &ReportUnanswered) -> bool {
        self.port
            .is_none_or(|port| [group.remote_port, group.local_port].contains(&port))
    }
}

fn unanswered_command(group: &ReportUnanswered, own_namespace: u32) -> String {
    let way_in = match group.namespace {
        0 => String::new(),
        namespace => way_in(namespace, None, own_namespace),
    };
    let state = group.state.ss_name();
    let peer = group
        .remote_address
        .map_or_else(String::new, |peer| format!(" dst {}", bracketed(peer)));
    format!("sudo {way_in}ss -tnpo state {state}{peer}")
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::unanswered, *};
    use crate::diagnosis::compare::tests::HERE;

    #[test]
    fn one_dead_connection_matters_and_a_few_that_cannot_be_closed_do_not() {
        for (state, sockets, is_wrong) in [
            (UnansweredState::Established, 1, true),
            (UnansweredState::FinWait1, 15, false),
            (UnansweredState::FinWait1, 16, true),
            (UnansweredState::LastAck, 16, true),
        ] {
            let found = DiagnosedUnanswered::new(unanswered(state, sockets), HERE);
            assert_eq!(found.is_some(), is_wrong, "{state:?} {sockets}");
        }
    }

    #[test]
    fn the_command_shows_these_sockets() {
        let mut group = unanswered(UnansweredState::LastAck, 20);
        group.namespace = 7;
        group.remote_address = Some("fd00::1".parse().unwrap());
        assert_eq!(
            unanswered_command(&group, HERE),
            "sudo nsenter --net=NAMESPACE_7 ss -tnpo state last-ack dst [fd00::1]"
        );
    }
}
