//! From a look at listeners to what is wrong with them.

use serde::Serialize;

use super::{ListenerTrouble, ReportListener};
use crate::diagnosis::{Filter, compare::way_in};

/// A listener that is in trouble, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedListener {
    /// The listener.
    #[serde(flatten)]
    pub listener: ReportListener,
    /// What is wrong, most likely.
    pub fault: &'static str,
    /// What to check.
    pub check: &'static str,
    /// A command that shows the sockets.
    pub command: String,
}

impl Filter {
    pub(crate) fn passes_listener(&self, listener: &ReportListener) -> bool {
        let holds = |pid: u32| {
            let owner = listener.process.as_ref().map(|process| process.pid);
            owner == Some(pid) || listener.shared_with.contains(&pid)
        };
        self.pid.is_none_or(holds) && self.port.is_none_or(|port| listener.address.port() == port)
    }
}

impl DiagnosedListener {
    pub(crate) fn new(listener: ReportListener, own_namespace: u32) -> Option<Self> {
        let trouble = listener.trouble?;
        Some(Self {
            fault: trouble.fault(),
            check: trouble.check(),
            command: listener_command(&listener, trouble, own_namespace),
            listener,
        })
    }
}

/// What shows the queues of a listener, or the connections that are half open.
fn listener_command(
    listener: &ReportListener,
    trouble: ListenerTrouble,
    own_namespace: u32,
) -> String {
    let way_in = way_in(listener.namespace, listener.process.as_ref(), own_namespace);
    let what = match trouble {
        ListenerTrouble::AcceptQueueFull | ListenerTrouble::AcceptQueueFilling => "-tlnp",
        ListenerTrouble::ManyPeersSilent | ListenerTrouble::FewPeersSilent => "-tno state syn-recv",
    };
    let port = listener.address.port();
    format!("sudo {way_in}ss {what} '( sport = :{port} )'")
}
