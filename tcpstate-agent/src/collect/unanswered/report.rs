//! Which peers do not answer.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tcpstate_common::TcpState;

use super::{UnansweredKey, UnansweredTally};
use crate::collect::owners::{ReportProcess, Reporter};

/// Sockets in one state that one peer does not answer, or does not close.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportUnanswered {
    /// The process that holds most of them; `None` where none does: it has closed them, or is not
    /// known.
    pub process: Option<ReportProcess>,
    /// Numbers of other processes that hold some.
    pub shared_with: Vec<u32>,
    /// Their names, each once.
    pub shared_names: Vec<String>,
    /// Inode number of the network namespace; 0 for many.
    pub namespace: u32,
    /// In which state they are.
    pub state: UnansweredState,
    /// The peer; `None` for many.
    pub remote_address: Option<IpAddr>,
    /// Its port, if it is the same of all; else 0.
    pub remote_port: u16,
    /// The local port, if it is the same of all; else 0.
    pub local_port: u16,
    /// How many there are.
    pub sockets: u64,
    /// For how long nothing was acknowledged, where it is longest.
    pub silent_seconds: f64,
    /// What is not acknowledged. A FIN counts 1.
    pub unacknowledged_bytes: u64,
}

/// The states in which a peer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnansweredState {
    /// It waits for an answer to its SYN.
    SynSent,
    /// Neither side has closed.
    Established,
    /// This side has closed first.
    FinWait1,
    /// This side has closed, the peer has acknowledged that and does not close.
    FinWait2,
    /// Both have closed at once.
    Closing,
    /// The peer had closed first.
    LastAck,
}

impl UnansweredState {
    /// Whether a process waits, and not only the kernel for what it has closed: one is enough then.
    #[must_use]
    pub const fn has_process(self) -> bool {
        matches!(self, Self::SynSent | Self::Established | Self::FinWait2)
    }

    /// As `ss` calls it.
    #[must_use]
    pub const fn ss_name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::Established => "established",
            Self::FinWait1 => "fin-wait-1",
            Self::FinWait2 => "fin-wait-2",
            Self::Closing => "closing",
            Self::LastAck => "last-ack",
        }
    }

    /// As people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "SYN_SENT",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST_ACK",
        }
    }

    const fn of(state: TcpState) -> Option<Self> {
        match state {
            TcpState::SynSent => Some(Self::SynSent),
            TcpState::Established => Some(Self::Established),
            TcpState::FinWait1 => Some(Self::FinWait1),
            TcpState::FinWait2 => Some(Self::FinWait2),
            TcpState::Closing => Some(Self::Closing),
            TcpState::LastAck => Some(Self::LastAck),
            _ => None,
        }
    }
}

impl ReportUnanswered {
    pub(crate) fn new(
        key: &UnansweredKey,
        tally: &UnansweredTally,
        reporter: &mut Reporter,
    ) -> Option<Self> {
        let holder = tally.holders.first();
        let others = tally.holders.get(1..).unwrap_or_default();
        let names: BTreeSet<_> = others.iter().map(|process| process.name.clone()).collect();
        Some(Self {
            process: holder.map(|process| reporter.describe(process)),
            shared_with: others.iter().map(|process| process.id.tgid).collect(),
            shared_names: names.into_iter().collect(),
            namespace: key.namespace,
            state: UnansweredState::of(key.state)?,
            remote_address: key.peer,
            remote_port: tally.remote_port,
            local_port: tally.local_port,
            sockets: tally.sockets,
            silent_seconds: Duration::as_secs_f64(&tally.silent),
            unacknowledged_bytes: tally.unacknowledged,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn unanswered(state: UnansweredState, sockets: u64) -> ReportUnanswered {
        ReportUnanswered {
            process: None,
            shared_with: Vec::new(),
            shared_names: Vec::new(),
            namespace: crate::diagnosis::compare::tests::HERE,
            state,
            remote_address: Some("10.0.0.3".parse().unwrap()),
            remote_port: 443,
            local_port: 0,
            sockets,
            silent_seconds: 75.0,
            unacknowledged_bytes: 1024,
        }
    }
}
