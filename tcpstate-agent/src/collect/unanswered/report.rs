//! Which peers do not answer.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tcpstate_common::TcpState;

use super::{UnansweredKey, UnansweredTally};

/// Sockets in one state that one peer does not answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportUnanswered {
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
    /// Neither side has closed.
    Established,
    /// This side has closed first.
    FinWait1,
    /// Both have closed at once.
    Closing,
    /// The peer had closed first.
    LastAck,
}

impl UnansweredState {
    /// As `ss` calls it.
    #[must_use]
    pub const fn ss_name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::FinWait1 => "fin-wait-1",
            Self::Closing => "closing",
            Self::LastAck => "last-ack",
        }
    }

    /// As people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN_WAIT1",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST_ACK",
        }
    }

    const fn of(state: TcpState) -> Option<Self> {
        match state {
            TcpState::Established => Some(Self::Established),
            TcpState::FinWait1 => Some(Self::FinWait1),
            TcpState::Closing => Some(Self::Closing),
            TcpState::LastAck => Some(Self::LastAck),
            _ => None,
        }
    }
}

impl ReportUnanswered {
    pub(crate) fn new(key: &UnansweredKey, tally: &UnansweredTally) -> Option<Self> {
        Some(Self {
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
