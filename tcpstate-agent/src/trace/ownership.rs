//! Whose socket a transition is of.
//!
//! A transition comes with a segment or a timer, and whoever is on the CPU then has nothing to do
//! with it. So owners are remembered: a process owns what it held when the trace began, what it
//! calls connect() or listen() for, and what its listeners accept.

use std::{collections::HashMap, sync::Arc};

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

/// The owners of one socket: several where processes share it.
pub type Owners = Vec<Arc<SocketOwner>>;

/// Network namespace and port.
type Place = (u32, u16);
/// A listener, and a process that has it.
type Listening = (u64, Arc<SocketOwner>);

/// Who owns which socket.
#[derive(Debug, Default)]
pub struct Ownership {
    sockets: HashMap<u64, Owners>,
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
            self.sockets.remove(&socket);
            if transition.new == TcpState::Listen {
                self.listen(socket, place, owner);
            } else {
                self.remember(socket, owner);
            }
        } else if transition.old == TcpState::Listen && transition.new != TcpState::Close {
            let listening = self.ports.get(&place).into_iter().flatten();
            let owners: Owners = listening.map(|(_, owner)| Arc::clone(owner)).collect();
            self.sockets.remove(&socket);
            for owner in owners {
                self.remember(socket, owner);
            }
        }
        if transition.new != TcpState::Close {
            return self.sockets.get(&socket).cloned().unwrap_or_default();
        }
        self.close_listener(socket);
        self.sockets.remove(&socket).unwrap_or_default()
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
        owners.iter().map(|owner| owner.pid).collect()
    }

    fn listener(pid: u32, socket: u64) -> Owner {
        Owner {
            process: ProcessId {
                tgid: pid,
                start_boottime_ns: 1,
            },
            socket: Socket::Listener(Listener {
                socket,
                namespace: 1,
                port: 80,
            }),
            is_shared: false,
            unaccepted: 0,
            living: 0,
            established: None,
            descriptor: None,
            is_cut: false,
        }
    }

    #[test]
    fn who_connects_owns_the_socket_until_it_closes() {
        use TcpState::{Close, Established, SynSent};
        let mut ownership = Ownership::default();
        let connect = ownership.observe(&transition(1, Close, SynSent, Some(10)));
        assert_eq!(
            *connect[0],
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
    fn a_socket_at_a_reused_address_does_not_inherit_its_owner() {
        use TcpState::{Close, Listen, SynRecv, SynSent};
        let mut ownership = Ownership::default();
        ownership.observe(&transition(1, Close, SynSent, Some(10)));
        let next = ownership.observe(&transition(1, Close, SynSent, Some(11)));
        assert_eq!(pids(&next), [11]);
        let child = ownership.observe(&transition(1, Listen, SynRecv, None));
        assert!(child.is_empty());
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
