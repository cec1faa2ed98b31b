//! From a look at listeners to what is wrong with them.

use serde::Serialize;

use super::{ListenerTrouble, ReportListener};
use crate::{
    collect::close_wait::{ReportGroup, Verdict},
    diagnosis::{Filter, NamespacePaths},
};

/// A listener that is in trouble, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedListener {
    /// The listener.
    #[serde(flatten)]
    pub listener: ReportListener,
    /// It is not known which of the processes that hold the sockets accepts.
    pub is_one_of: bool,
    /// Names of those that share them, each once, where they are known.
    pub shared_names: Vec<String>,
    /// What is wrong with the process, where its accept queue fills and that is known.
    pub verdict: Option<Verdict>,
    /// What is wrong, most likely.
    pub fault: &'static str,
    /// What to check.
    pub check: &'static str,
    /// A command that shows the sockets.
    pub command: String,
}

impl Filter {
    pub(crate) fn passes_listener(&self, listener: &ReportListener) -> bool {
        self.is_held(listener.process.as_ref(), &listener.shared_with)
            && self.port.is_none_or(|port| listener.address.port() == port)
    }
}

impl DiagnosedListener {
    /// `waiting` is what waits in its queue and has been given up, with who should accept it.
    pub(crate) fn new(
        mut listener: ReportListener,
        waiting: Option<(&ReportGroup, Verdict)>,
        namespaces: &NamespacePaths,
    ) -> Option<Self> {
        let trouble = listener.trouble?;
        let verdict = waiting.map(|(_, verdict)| verdict);
        let accepters = waiting
            .map(|(group, _)| group)
            .filter(|group| holds(&listener, group));
        if let Some(group) = accepters {
            listener.process.clone_from(&group.process);
            listener.shared_with.clone_from(&group.shared_with);
        }
        let process = listener.process.as_ref();
        let is_full = process.is_some_and(|process| process.fds_left() == Some(0));
        let verdict = match trouble {
            ListenerTrouble::ManyPeersSilent | ListenerTrouble::FewPeersSilent => None,
            _ if is_full => Some(Verdict::DescriptorsExhausted),
            _ => verdict.filter(|verdict| *verdict != Verdict::Other),
        };
        let advice = verdict.map(Verdict::advice);
        Some(Self {
            is_one_of: accepters.is_some_and(|group| group.facts.is_one_of),
            shared_names: accepters.map_or_else(Vec::new, |group| group.shared_names.clone()),
            verdict,
            fault: advice.map_or_else(|| trouble.fault(), |advice| advice.fault),
            check: advice.map_or_else(|| trouble.check(), |advice| advice.check),
            command: listener_command(&listener, trouble, namespaces),
            listener,
        })
    }
}

/// Whether the process that should accept a group is one of those that hold a listener.
fn holds(listener: &ReportListener, group: &ReportGroup) -> bool {
    let holder = listener.process.as_ref().map(|process| process.pid);
    let accepter = group.process.as_ref().map(|process| process.pid);
    accepter.is_some()
        && (accepter == holder || accepter.is_some_and(|pid| listener.shared_with.contains(&pid)))
}

/// What shows the queues of a listener, or the connections that are half open.
fn listener_command(
    listener: &ReportListener,
    trouble: ListenerTrouble,
    namespaces: &NamespacePaths,
) -> String {
    let what = match trouble {
        ListenerTrouble::AcceptQueueFull | ListenerTrouble::AcceptQueueFilling => "-tlnp",
        ListenerTrouble::ManyPeersSilent | ListenerTrouble::FewPeersSilent => "-tno state syn-recv",
    };
    let port = listener.address.port();
    namespaces.command(
        listener.namespace,
        &format!("ss {what} '( sport = :{port} )'"),
    )
}
