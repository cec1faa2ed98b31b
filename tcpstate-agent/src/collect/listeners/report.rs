//! What listens: its queues, and what is wrong with them.

use std::{cmp::Reverse, net::SocketAddr};

use serde::{Deserialize, Serialize};
use tcpstate_common::{ServiceCounts, TcpState};

use super::{HalfOpenKinds, Listener};
use crate::{
    collect::owners::{ReportProcess, Reporter},
    engine::OwnedListener,
};

/// Fewer half-open connections are no trouble, whatever they wait for.
const SOME: u64 = 16;
/// From so many peers on it is not one broken client.
const MANY_PEERS: u32 = 10;

/// What listens at one moment, the busiest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListeningReport {
    /// Every listener.
    pub listeners: Vec<ReportListener>,
}

/// The sockets of one process that listen in one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportListener {
    /// The process; `None` where no descriptor leads to them.
    pub process: Option<ReportProcess>,
    /// Other processes that hold some of the sockets too.
    pub shared_with: Vec<u32>,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// Address and port.
    pub address: SocketAddr,
    /// How many sockets there are (`SO_REUSEPORT`).
    pub sockets: u64,
    /// Connections that wait to be accepted.
    pub accept_queue: u64,
    /// How many may wait; a queue is full with one more.
    pub accept_queue_limit: u64,
    /// Those of the socket whose queue is fullest.
    pub worst_accept_queue: u64,
    /// Its limit.
    pub worst_accept_queue_limit: u64,
    /// How many may be half open.
    pub syn_queue_limit: u64,
    /// Half-open connections by what they wait for.
    pub syn_recv: HalfOpenKinds,
    /// Of those of the address, whose SYN-ACK was sent again. Where several processes listen there,
    /// the kernel's table does not tell whose they are; the same holds for the next three.
    pub syn_recv_resent: u64,
    /// How often that was.
    pub syn_recv_retransmits: u64,
    /// Age of the oldest.
    pub syn_recv_oldest_seconds: f64,
    /// About how many peers they have; more than some 250 cannot be told.
    pub syn_recv_peers: u32,
    /// Connections that are established.
    pub established: u64,
    /// Connections in CLOSE_WAIT.
    pub close_wait: u64,
    /// Connections in any other state, TIME_WAIT too, but for those half open.
    pub other_states: u64,
    /// What the sockets have dropped since they listen.
    pub drops: u64,
    /// SYN-ACKs sent again since the sockets are known.
    pub synack_retransmits: u64,
    /// What is wrong, if anything is.
    pub trouble: Option<ListenerTrouble>,
}

/// What can be wrong with a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerTrouble {
    /// An accept queue is full.
    AcceptQueueFull,
    /// An accept queue is more than half full.
    AcceptQueueFilling,
    /// Many peers do not answer SYN-ACKs.
    ManyPeersSilent,
    /// Few peers do not answer SYN-ACKs.
    FewPeersSilent,
}

impl ListenerTrouble {
    /// What is wrong with `listener`, the worst first.
    #[must_use]
    pub fn of(listener: &Listener) -> Option<Self> {
        let queues = &listener.queues;
        let half_open = queues.half_open;
        // Those that defer wait as they should.
        let waiting = half_open.waiting;
        let found = listener.connections.as_deref();
        let resent = found.map_or(0, |found| u64::from(found.resent));
        // Where several share the address, that many are at all of them.
        let at_address = found.map_or(0, |found| {
            u64::from(found.by_state[TcpState::NewSynRecv as usize])
        });
        let is_silent = waiting >= SOME && resent * 2 >= at_address.max(waiting);
        let is_filling = waiting >= SOME && waiting * 4 >= queues.syn_limit;
        if queues.is_full() || half_open.accept_queue_full > 0 {
            Some(Self::AcceptQueueFull)
        } else if queues.worst_queue * 2 > queues.worst_limit {
            Some(Self::AcceptQueueFilling)
        } else if !is_silent && !is_filling {
            None
        } else if found.is_some_and(|found| found.peers() >= MANY_PEERS) {
            Some(Self::ManyPeersSilent)
        } else {
            Some(Self::FewPeersSilent)
        }
    }

    /// What is wrong, as the end of a sentence about the process.
    #[must_use]
    pub const fn fault(self) -> &'static str {
        match self {
            Self::AcceptQueueFull => {
                "does not accept connections: its accept queue is full, and the kernel drops what \
                 comes"
            }
            Self::AcceptQueueFilling => {
                "accepts connections more slowly than they come: its accept queue is more than \
                 half full"
            }
            Self::ManyPeersSilent => {
                "has many half-open connections from many peers that do not answer: a SYN flood, or \
                 its SYN-ACKs or their third ACKs are lost on the way"
            }
            Self::FewPeersSilent => {
                "has many half-open connections from few peers: a broken client, or the way to it"
            }
        }
    }

    /// What to check.
    #[must_use]
    pub const fn check(self) -> &'static str {
        match self {
            Self::AcceptQueueFull => {
                "what its accepting thread waits for, its limit of workers or connections, and its \
                 log for \"too many open files\""
            }
            Self::AcceptQueueFilling => {
                "how busy its accepting thread is, and whether listen() is given too short a queue \
                 (net.core.somaxconn limits it)"
            }
            Self::ManyPeersSilent => {
                "that net.ipv4.tcp_syncookies is 1, whether the peers are real (their networks, \
                 their number), and the way back to them: routes, firewalls, load balancers"
            }
            Self::FewPeersSilent => {
                "the peers that the command shows, and the way back to them: routes, firewalls"
            }
        }
    }
}

impl ListeningReport {
    /// What was found, with what `/proc` says of the processes now.
    #[must_use]
    pub fn new(found: &[OwnedListener]) -> Self {
        let mut reporter = Reporter::default();
        let mut listeners: Vec<ReportListener> = found
            .iter()
            .map(|found| {
                let process = found.process.as_ref();
                let process = process.map(|process| reporter.describe(process));
                let others = found.co_owners.iter().map(|other| other.tgid);
                ReportListener::new(&found.listener, process, others.collect())
            })
            .collect();
        listeners.sort_by_key(|listener| {
            let waiting = listener.accept_queue + listener.syn_recv.total();
            let connections = listener.established + listener.close_wait;
            let address = listener.address;
            (
                listener.trouble.is_none(),
                Reverse((waiting, connections)),
                (address.port(), address.ip(), listener.namespace),
            )
        });
        Self { listeners }
    }

    /// Whether something is wrong with any of them.
    #[must_use]
    pub fn is_something_wrong(&self) -> bool {
        self.listeners
            .iter()
            .any(|listener| listener.trouble.is_some())
    }
}

impl ReportListener {
    fn new(listener: &Listener, process: Option<ReportProcess>, shared_with: Vec<u32>) -> Self {
        let none = ServiceCounts::default();
        let found = listener.connections.as_deref().unwrap_or(&none);
        let by_state = if listener.is_first {
            found.by_state
        } else {
            none.by_state
        };
        let in_state = |state: TcpState| u64::from(by_state[state as usize]);
        let (established, close_wait) = (
            in_state(TcpState::Established),
            in_state(TcpState::CloseWait),
        );
        let all: u64 = by_state.into_iter().map(u64::from).sum();
        let half_open = in_state(TcpState::NewSynRecv);
        Self {
            process,
            shared_with,
            namespace: listener.place.namespace,
            address: listener.place.address,
            sockets: listener.sockets,
            accept_queue: listener.queues.accept_queue,
            accept_queue_limit: listener.queues.accept_limit,
            worst_accept_queue: listener.queues.worst_queue,
            worst_accept_queue_limit: listener.queues.worst_limit,
            syn_queue_limit: listener.queues.syn_limit,
            syn_recv: listener.queues.half_open,
            syn_recv_resent: found.resent.into(),
            syn_recv_retransmits: found.retransmits.into(),
            syn_recv_oldest_seconds: f64::from(found.oldest_ms) / 1000.0,
            syn_recv_peers: found.peers(),
            established,
            close_wait,
            other_states: all - established - close_wait - half_open,
            drops: listener.drops,
            synack_retransmits: listener.synack_retransmits,
            trouble: ListenerTrouble::of(listener),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::{
        super::{Place, QueueSums},
        *,
    };
    use crate::diagnosis::compare::tests::{HERE, process};

    fn listener() -> Listener {
        Listener {
            place: Place {
                owner: None,
                namespace: HERE,
                address: "0.0.0.0:8080".parse().unwrap(),
            },
            sockets: 1,
            queues: QueueSums {
                accept_limit: 128,
                worst_limit: 128,
                syn_limit: 128,
                ..QueueSums::default()
            },
            connections: None,
            is_first: true,
            drops: 0,
            synack_retransmits: 0,
        }
    }

    /// One of two sockets has a full queue.
    pub(crate) fn stuck() -> ReportListener {
        let mut found = ServiceCounts {
            peers: 0b11,
            resent: 2,
            retransmits: 5,
            oldest_ms: 3_500,
            ..ServiceCounts::default()
        };
        found.by_state[TcpState::Established as usize] = 100;
        found.by_state[TcpState::CloseWait as usize] = 29;
        found.by_state[TcpState::TimeWait as usize] = 5;
        found.by_state[TcpState::NewSynRecv as usize] = 3;
        let listener = Listener {
            sockets: 2,
            queues: QueueSums {
                accept_queue: 129,
                accept_limit: 256,
                worst_queue: 129,
                worst_limit: 128,
                syn_limit: 256,
                half_open: HalfOpenKinds {
                    waiting: 1,
                    deferred: 0,
                    accept_queue_full: 2,
                },
            },
            connections: Some(Arc::new(found)),
            drops: 77,
            synack_retransmits: 9,
            ..listener()
        };
        ReportListener::new(&listener, Some(process(4711, 141)), vec![4712])
    }

    /// Many peers do not answer.
    pub(crate) fn flooded() -> ReportListener {
        let mut found = ServiceCounts {
            peers: u64::MAX,
            resent: 800,
            retransmits: 1_600,
            oldest_ms: 7_200,
            ..ServiceCounts::default()
        };
        found.by_state[TcpState::NewSynRecv as usize] = 900;
        let mut listener = Listener {
            queues: QueueSums {
                accept_limit: 4096,
                worst_limit: 4096,
                syn_limit: 4096,
                half_open: HalfOpenKinds {
                    waiting: 900,
                    ..HalfOpenKinds::default()
                },
                ..QueueSums::default()
            },
            connections: Some(Arc::new(found)),
            ..listener()
        };
        listener.place.address = "[::]:443".parse().unwrap();
        ReportListener::new(&listener, None, Vec::new())
    }

    #[test]
    fn trouble_is_told_by_queues_answers_and_peers() {
        let waiting = |waiting| HalfOpenKinds {
            waiting,
            ..HalfOpenKinds::default()
        };
        let silent = |resent, peers: u32| {
            Some(Arc::new(ServiceCounts {
                peers: (1_u64 << peers) - 1,
                resent,
                ..ServiceCounts::default()
            }))
        };
        for (change, expected) in [
            (&(|_: &mut Listener| {}) as &dyn Fn(&mut Listener), None),
            (
                &|listener| listener.queues.worst_queue = 129,
                Some(ListenerTrouble::AcceptQueueFull),
            ),
            (
                &|listener| listener.queues.half_open.accept_queue_full = 1,
                Some(ListenerTrouble::AcceptQueueFull),
            ),
            (
                &|listener| listener.queues.worst_queue = 65,
                Some(ListenerTrouble::AcceptQueueFilling),
            ),
            (&|listener| listener.queues.worst_queue = 64, None),
            // However many: that is what they do.
            (
                &|listener| listener.queues.half_open.deferred = 10_000,
                None,
            ),
            // Some are always on their way.
            (&|listener| listener.queues.half_open = waiting(20), None),
            (
                &|listener| {
                    listener.queues.half_open = waiting(20);
                    listener.connections = silent(10, 1);
                },
                Some(ListenerTrouble::FewPeersSilent),
            ),
            (
                &|listener| {
                    listener.queues.half_open = waiting(20);
                    listener.connections = silent(10, 12);
                },
                Some(ListenerTrouble::ManyPeersSilent),
            ),
            // A flood of a second ago: nothing was sent again yet.
            (
                &|listener| {
                    listener.queues.half_open = waiting(40);
                    listener.connections = silent(0, 40);
                },
                Some(ListenerTrouble::ManyPeersSilent),
            ),
        ] {
            let mut listener = listener();
            change(&mut listener);
            assert_eq!(ListenerTrouble::of(&listener), expected, "{listener:?}");
        }
    }

    #[test]
    fn connections_add_up_to_those_that_are_there() {
        let report = stuck();
        assert_eq!(
            (report.established, report.close_wait, report.other_states),
            (100, 29, 5)
        );
    }

    #[test]
    fn in_a_flood_each_process_that_shares_the_address_has_the_same_verdict() {
        let mut found = ServiceCounts {
            resent: 80,
            peers: u64::MAX,
            ..ServiceCounts::default()
        };
        found.by_state[TcpState::NewSynRecv as usize] = 100;
        let found = Arc::new(found);
        for is_first in [true, false] {
            let listener = Listener {
                queues: QueueSums {
                    half_open: HalfOpenKinds {
                        waiting: 25,
                        ..HalfOpenKinds::default()
                    },
                    ..listener().queues
                },
                connections: Some(Arc::clone(&found)),
                is_first,
                ..listener()
            };
            let trouble = ListenerTrouble::of(&listener);
            assert_eq!(trouble, Some(ListenerTrouble::ManyPeersSilent));
            let report = ReportListener::new(&listener, None, Vec::new());
            assert_eq!((report.syn_recv_resent, report.established), (80, 0));
        }
    }
}
