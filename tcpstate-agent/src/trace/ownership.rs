//! Whose socket a transition is of.
//!
//! A transition comes with a segment or a timer, and whoever is on the CPU then has nothing to do
//! with it. So owners are remembered: a process owns what it held when the trace began, what it
//! calls connect() or listen() for, and what its listeners accept. Of a listener that several
//! processes hold any of them may accept: which one did, the next walk over descriptors tells.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::Serialize;
use tcpstate_common::TcpState;

use crate::{
    decode::{Caller, Listener, Owner, Socket, Transition},
    host::process::{label_text, until_nul},
};

/// Sockets that are remembered at once; beyond it the owners of new ones are not known.
const REMEMBERED: usize = 1 << 20;

/// A process that owns a socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SocketOwner {
    /// Its number.
    pub pid: u32,
    /// comm of its first thread.
    pub name: String,
}

/// The owners of one socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Several where processes share it, or it is not known which it is.
    pub processes: Vec<Arc<SocketOwner>>,
    /// It is one of them, and not known which.
    pub is_one_of: bool,
}

/// Network namespace and port.
type Place = (u32, u16);
/// A listener, and a process that has it.
type Listening = (u64, Arc<SocketOwner>);

/// Who owns which socket.
#[derive(Debug, Default)]
pub struct Ownership {
    sockets: HashMap<u64, Vec<Arc<SocketOwner>>>,
    /// Those that one of several processes has accepted, and it is not known which.
    undecided: HashSet<u64>,
    /// By network namespace and port, with the listener that makes it so.
    ports: HashMap<Place, Vec<Listening>>,
    listeners: HashMap<u64, Place>,
}

impl Ownership {
    /// Remembers a descriptor that `name` holds.
    pub fn hold(&mut self, descriptor: &Owner, name: &str) {
        let owner = Arc::new(SocketOwner {
            pid: descriptor.process.tgid,
            name: name.to_owned(),
        });
        match &descriptor.socket {
            Socket::Listener(Listener {
                socket,
                namespace,
                port,
            }) => self.listen(*socket, (*namespace, *port), owner),
            Socket::CloseWait(socket) => self.remember(socket.socket, owner),
            Socket::Mptcp(socket) => self.remember(socket.socket, owner),
            Socket::Other(socket) => self.remember(*socket, owner),
        }
    }

    /// Takes note of a transition and returns the owners of its socket, as far as they are known.
    pub fn observe(&mut self, transition: &Transition) -> Owners {
        let socket = transition.socket;
        let place = (transition.namespace, transition.local.port());
        if let Some(caller) = &transition.caller {
            let owner = Arc::new(SocketOwner::from(caller));
            // A socket at an address that was used before is a new one.
            self.forget(socket);
            if transition.new == TcpState::Listen {
                self.listen(socket, place, owner);
            } else {
                self.remember(socket, owner);
            }
        } else if transition.old == TcpState::Listen && transition.new != TcpState::Close {
            let listening = self.ports.get(&place).into_iter().flatten();
            let owners: Vec<_> = listening.map(|(_, owner)| Arc::clone(owner)).collect();
            self.forget(socket);
            for owner in owners {
                self.remember(socket, owner);
            }
            if self
                .sockets
                .get(&socket)
                .is_some_and(|owners| owners.len() > 1)
            {
                self.undecided.insert(socket);
            }
        }
        if transition.new != TcpState::Close {
            return Owners {
                processes: self.sockets.get(&socket).cloned().unwrap_or_default(),
                is_one_of: self.undecided.contains(&socket),
            };
        }
        self.close_listener(socket);
        self.forget(socket)
    }

    /// Whether there are sockets of which it is not known who has accepted them.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        !self.undecided.is_empty()
    }

    /// Takes note of the descriptors that a walk has found, each with the name of its process, where
    /// that tells who has accepted a socket.
    pub fn decide<'a>(&mut self, held: impl Iterator<Item = (&'a Owner, &'a str)>) {
        let mut decided = HashSet::new();
        for (descriptor, name) in held {
            let socket = match &descriptor.socket {
                Socket::Listener(_) => continue,
                Socket::CloseWait(socket) => socket.socket,
                Socket::Mptcp(socket) => socket.socket,
                Socket::Other(socket) => *socket,
            };
            if self.undecided.remove(&socket) {
                self.sockets.remove(&socket);
                decided.insert(socket);
            }
            if decided.contains(&socket) {
                self.hold(descriptor, name);
            }
        }
    }

    fn forget(&mut self, socket: u64) -> Owners {
        Owners {
            processes: self.sockets.remove(&socket).unwrap_or_default(),
            is_one_of: self.undecided.remove(&socket),
        }
    }

    fn listen(&mut self, socket: u64, place: Place, owner: Arc<SocketOwner>) {
        if self.listeners.len() >= REMEMBERED {
            return;
        }
        self.listeners.insert(socket, place);
        let listening = self.ports.entry(place).or_default();
        if !listening.contains(&(socket, Arc::clone(&owner))) {
            listening.push((socket, Arc::clone(&owner)));
        }
        self.remember(socket, owner);
    }

    fn close_listener(&mut self, socket: u64) {
        let Some(place) = self.listeners.remove(&socket) else {
            return;
        };
        if let Some(listening) = self.ports.get_mut(&place) {
            listening.retain(|(listener, _)| *listener != socket);
            if listening.is_empty() {
                self.ports.remove(&place);
            }
        }
    }

    fn remember(&mut self, socket: u64, owner: Arc<SocketOwner>) {
        if self.sockets.len() >= REMEMBERED && !self.sockets.contains_key(&socket) {
            return;
        }
        let owners = self.sockets.entry(socket).or_default();
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
}

impl From<&Caller> for SocketOwner {
    fn from(caller: &Caller) -> Self {
        Self {
            pid: caller.process,
            name: label_text(until_nul(&caller.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_common::Family;

    use super::*;
    use crate::host::process::ProcessId;

    fn transition(socket: u64, old: TcpState, new: TcpState, caller: Option<u32>) -> Transition {
        Transition {
            time_ns: 0,
            socket,
            namespace: 1,
            family: Family::Ipv4,
            old,
            new,
            error: 0,
            reason: None,
            local: "127.0.0.1:80".parse().unwrap(),
            remote: "127.0.0.1:4000".parse().unwrap(),
            caller: caller.map(|process| Caller {
                process,
                name: *b"nginx\0garbage\0\0\0",
            }),
        }
    }

    fn pids(owners: &Owners) -> Vec<u32> {
        owners.processes.iter().map(|owner| owner.pid).collect()
    }

    fn listener(pid: u32, socket: u64) -> Owner {
        let process = ProcessId {
            tgid: pid,
            start_boottime_ns: 1,
        };
        let listener = Listener {
            socket,
            namespace: 1,
            port: 80,
        };
        Owner::of(process, Socket::Listener(listener))
    }

    #[test]
    fn who_connects_owns_the_socket_until_it_closes() {
        use TcpState::{Close, Established, SynSent};
        let mut ownership = Ownership::default();
        let connect = ownership.observe(&transition(1, Close, SynSent, Some(10)));
        assert_eq!(
            *connect.processes[0],
            SocketOwner {
                pid: 10,
                name: "nginx".to_owned()
            }
        );
        let established = ownership.observe(&transition(1, SynSent, Established, None));
        assert_eq!(pids(&established), [10]);
        let close = ownership.observe(&transition(1, Established, Close, None));
        assert_eq!(pids(&close), [10]);
        assert!(ownership.sockets.is_empty());
    }

    #[test]
    fn what_a_listener_accepts_is_its_owners() {
        use TcpState::{Close, Listen, SynRecv};
        let mut ownership = Ownership::default();
        ownership.observe(&transition(5, Close, Listen, Some(20)));
        ownership.hold(&listener(21, 6), "nginx");
        let child = ownership.observe(&transition(7, Listen, SynRecv, None));
        assert_eq!(pids(&child), [20, 21]);
        ownership.observe(&transition(5, Listen, Close, None));
        let child = ownership.observe(&transition(8, Listen, SynRecv, None));
        assert_eq!(pids(&child), [21]);
        ownership.observe(&transition(6, Listen, Close, None));
        assert!(ownership.ports.is_empty());
        assert!(ownership.listeners.is_empty());
    }

    #[test]
    fn who_accepts_of_several_is_known_once_it_is_looked_for() {
        use TcpState::{Close, CloseWait, Established, Listen, SynRecv};
        let mut ownership = Ownership::default();
        for pid in [10, 11, 12] {
            ownership.hold(&listener(pid, 5), "gunicorn");
        }
        let child = ownership.observe(&transition(7, Listen, SynRecv, None));
        assert_eq!((pids(&child), child.is_one_of), (vec![10, 11, 12], true));
        assert!(ownership.is_undecided());
        // Another socket tells nothing of it.
        let accepted = |socket| Owner {
            socket: Socket::Other(socket),
            ..listener(11, 0)
        };
        for (held, expected) in [
            (vec![accepted(8)], (vec![10, 11, 12], true)),
            (vec![accepted(7), listener(12, 5)], (vec![11], false)),
        ] {
            ownership.decide(held.iter().map(|held| (held, "gunicorn")));
            let seen = ownership.observe(&transition(7, Established, CloseWait, None));
            assert_eq!((pids(&seen), seen.is_one_of), expected);
        }
        assert!(!ownership.is_undecided());
        // One that nobody has accepted when it ends.
        ownership.observe(&transition(8, Listen, SynRecv, None));
        let ended = ownership.observe(&transition(8, Established, Close, None));
        assert!(ended.is_one_of && !ownership.is_undecided());
    }

    #[test]
    fn a_socket_at_a_reused_address_does_not_inherit_its_owner() {
        use TcpState::{Close, Listen, SynRecv, SynSent};
        let mut ownership = Ownership::default();
        ownership.observe(&transition(1, Close, SynSent, Some(10)));
        let next = ownership.observe(&transition(1, Close, SynSent, Some(11)));
        assert_eq!(pids(&next), [11]);
        let child = ownership.observe(&transition(1, Listen, SynRecv, None));
        assert!(child.processes.is_empty());
    }

    #[test]
    fn processes_that_share_a_socket_all_own_it() {
        let mut ownership = Ownership::default();
        for pid in [3, 4, 3] {
            let held = Owner {
                socket: Socket::Other(9),
                ..listener(pid, 0)
            };
            ownership.hold(&held, "worker");
        }
        let seen = transition(9, TcpState::Established, TcpState::CloseWait, None);
        assert_eq!(pids(&ownership.observe(&seen)), [3, 4]);
    }
}
