//! From a look at listeners to what is wrong with them.

use serde::Serialize;

use super::{ListenerTrouble, ReportListener};
use crate::{
    collect::close_wait::Verdict,
    diagnosis::{Filter, NamespacePaths},
};

/// A listener that is in trouble, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedListener {
    /// The listener.
    #[serde(flatten)]
    pub listener: ReportListener,
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
    /// `verdict` is that of what waits in its queue and has been given up.
    pub(crate) fn new(
        listener: ReportListener,
        verdict: Option<Verdict>,
        namespaces: &NamespacePaths,
    ) -> Option<Self> {
        let trouble = listener.trouble?;
        let process = listener.process.as_ref();
        let is_full = process.is_some_and(|process| process.fds_left() == Some(0));
        let verdict = match trouble {
            ListenerTrouble::ManyPeersSilent | ListenerTrouble::FewPeersSilent => None,
            _ if is_full => Some(Verdict::DescriptorsExhausted),
            _ => verdict.filter(|verdict| *verdict != Verdict::Other),
        };
        let advice = verdict.map(Verdict::advice);
        Some(Self {
            verdict,
            fault: advice.map_or_else(|| trouble.fault(), |advice| advice.fault),
            check: advice.map_or_else(|| trouble.check(), |advice| advice.check),
            command: listener_command(&listener, trouble, namespaces),
            listener,
        })
    }
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
