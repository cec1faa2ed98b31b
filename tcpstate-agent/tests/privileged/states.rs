//! Each state of the contract, made by real sockets and equal to what `ss` shows.

use std::{
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tcpstate_common::{Family, TcpState};

use crate::{
    harness::{Netns, census_of, same, watch, within},
    peer::{KERNEL_V4, KERNEL_V6, PEER_V4, PEER_V6, Peer},
};

/// How a socket speaks: the family of the socket, and of its packets.
#[derive(Clone, Copy, Debug)]
enum Speech {
    V4,
    V6,
    /// A dual-stack socket that speaks IPv4.
    Mapped,
}

impl Speech {
    /// A socket of this kind, bound to the kernel's address and `port`.
    fn socket(self, port: u16) -> Socket {
        let (domain, address): (_, IpAddr) = match self {
            Self::V4 => (Domain::IPV4, KERNEL_V4.into()),
            Self::V6 => (Domain::IPV6, KERNEL_V6.into()),
            Self::Mapped => (Domain::IPV6, KERNEL_V4.to_ipv6_mapped().into()),
        };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        if domain == Domain::IPV6 {
            socket.set_only_v6(matches!(self, Self::V6)).unwrap();
        }
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::new(address, port).into()).unwrap();
        socket
    }

    /// The address to connect the socket to for reaching the peer.
    fn peer_as_seen(self, port: u16) -> SocketAddr {
        let address: IpAddr = match self {
            Self::V4 => PEER_V4.into(),
            Self::V6 => PEER_V6.into(),
            Self::Mapped => PEER_V4.to_ipv6_mapped().into(),
        };
        SocketAddr::new(address, port)
    }

    /// Kernel's and peer's address on the wire.
    fn on_the_wire(self, kernel_port: u16, peer_port: u16) -> (SocketAddr, SocketAddr) {
        match self {
            Self::V4 | Self::Mapped => {
                ((KERNEL_V4, kernel_port).into(), (PEER_V4, peer_port).into())
            }
            Self::V6 => ((KERNEL_V6, kernel_port).into(), (PEER_V6, peer_port).into()),
        }
    }
}

/// The sockets of one kind that a test has made; dropping it closes them.
struct Sockets<'a> {
    peer: &'a mut Peer,
    speech: Speech,
    next_port: u16,
    open: Vec<Socket>,
}

impl Sockets<'_> {
    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    fn listener(&mut self) -> u16 {
        let port = self.port();
        let socket = self.speech.socket(port);
        socket.listen(16).unwrap();
        self.open.push(socket);
        port
    }

    /// A connection that the kernel opens, still without an answer.
    fn connecting(&mut self) -> (Socket, u16, u16) {
        let (kernel_port, peer_port) = (self.port(), self.port());
        let socket = self.speech.socket(kernel_port);
        socket.set_nonblocking(true).unwrap();
        let refused = socket.connect(&self.speech.peer_as_seen(peer_port).into());
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        (socket, kernel_port, peer_port)
    }

    fn connected(&mut self) -> (Socket, crate::peer::Connection) {
        let (socket, kernel_port, peer_port) = self.connecting();
        let (kernel, peer) = self.speech.on_the_wire(kernel_port, peer_port);
        (socket, self.peer.accept(peer, kernel))
    }

    /// Makes a socket in `state`, by full sockets where both are possible.
    fn make(&mut self, state: TcpState) {
        match state {
            TcpState::Listen => {
                self.listener();
            }
            TcpState::SynSent => {
                let (socket, ..) = self.connecting();
                self.open.push(socket);
            }
            TcpState::NewSynRecv => {
                let (kernel_port, peer_port) = (self.next_listener(), self.port());
                let (kernel, peer) = self.speech.on_the_wire(kernel_port, peer_port);
                self.peer.half_open(peer, kernel);
            }
            TcpState::Established => {
                let (socket, _) = self.connected();
                self.open.push(socket);
            }
            TcpState::FinWait1 => {
                let (socket, connection) = self.connected();
                socket.shutdown(Shutdown::Write).unwrap();
                self.peer.await_fin(&connection);
                self.open.push(socket);
            }
            TcpState::FinWait2 => {
                let (socket, mut connection) = self.connected();
                socket.shutdown(Shutdown::Write).unwrap();
                self.peer.await_fin(&connection);
                self.peer.acknowledge_fin(&mut connection);
                self.open.push(socket);
            }
            TcpState::CloseWait => {
                let (socket, mut connection) = self.connected();
                self.peer.close(&mut connection);
                self.open.push(socket);
            }
            TcpState::Closing => {
                let (socket, mut connection) = self.connected();
                socket.shutdown(Shutdown::Write).unwrap();
                self.peer.await_fin(&connection);
                self.peer.close(&mut connection);
                self.open.push(socket);
            }
            TcpState::LastAck => {
                let (socket, mut connection) = self.connected();
                self.peer.close(&mut connection);
                // Not before the FIN is in: close() would be an active one.
                await_end_of_file(&socket);
                drop(socket);
                self.peer.await_fin(&connection);
            }
            TcpState::TimeWait => {
                let (socket, mut connection) = self.connected();
                drop(socket);
                self.peer.await_fin(&connection);
                self.peer.acknowledge_fin(&mut connection);
                self.peer.close(&mut connection);
            }
            TcpState::SynRecv | TcpState::Close => unreachable!("not made here"),
        }
    }

    /// FIN_WAIT2 of a socket that its process has closed: a minisocket.
    fn make_orphan_in_fin_wait2(&mut self) {
        let (socket, mut connection) = self.connected();
        drop(socket);
        self.peer.await_fin(&connection);
        self.peer.acknowledge_fin(&mut connection);
    }

    /// Half-open connections share one listener, the first socket that was made.
    fn next_listener(&self) -> u16 {
        let address = self
            .open
            .first()
            .expect("no listener")
            .local_addr()
            .unwrap();
        address.as_socket().unwrap().port()
    }
}

fn await_end_of_file(socket: &Socket) {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    within(Duration::from_secs(15), || match socket.recv(&mut byte) {
        Ok(0) => Ok(()),
        other => Err(format!("no end of file yet: {other:?}")),
    });
}

/// What is made, in this order, and how many of each; different numbers, so that no two states
/// can be mistaken for each other.
const PLAN: [(TcpState, u64); 10] = [
    (TcpState::Listen, 2),
    (TcpState::SynSent, 3),
    (TcpState::NewSynRecv, 4),
    (TcpState::Established, 5),
    (TcpState::FinWait1, 6),
    (TcpState::FinWait2, 7),
    (TcpState::CloseWait, 8),
    (TcpState::Closing, 9),
    (TcpState::LastAck, 10),
    (TcpState::TimeWait, 11),
];
/// Minisockets in FIN_WAIT2, in addition.
const ORPHANS: u64 = 12;

fn every_state_equals_ss(speech: Speech, family: Family) {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    // One watch sees all of it happen, and another begins when it is all there.
    let before = watch();
    let _sockets = namespace.enter(|| {
        let mut sockets = Sockets {
            peer: &mut peer,
            speech,
            next_port: 20_000,
            open: Vec::new(),
        };
        for (state, count) in PLAN {
            for _ in 0..count {
                sockets.make(state);
            }
        }
        for _ in 0..ORPHANS {
            sockets.make_orphan_in_fin_wait2();
        }
        sockets.open
    });
    let after = watch();
    for (watch, name) in [
        (&before, "a watch that saw it"),
        (&after, "a watch that came later"),
    ] {
        within(Duration::from_secs(15), || {
            let shown = census_of(&watch.read().unwrap(), namespace.inode());
            let truth = namespace.ss();
            for (state, count) in PLAN {
                let state = if state == TcpState::NewSynRecv {
                    TcpState::SynRecv
                } else {
                    state
                };
                let expected = count
                    + if state == TcpState::FinWait2 {
                        ORPHANS
                    } else {
                        0
                    };
                let made = truth.get(family, state);
                if made != expected {
                    return Err(format!("{}: made {made} of {expected}", state.name()));
                }
            }
            same(&shown, &truth).map_err(|why| format!("{name}: {why}"))
        });
    }
}

#[test]
fn every_state_over_ipv4_equals_ss() {
    every_state_equals_ss(Speech::V4, Family::Ipv4);
}

#[test]
fn every_state_over_ipv6_equals_ss() {
    every_state_equals_ss(Speech::V6, Family::Ipv6);
}

#[test]
fn every_state_of_a_dual_stack_socket_over_ipv4_counts_as_ipv6_as_in_ss() {
    every_state_equals_ss(Speech::Mapped, Family::Ipv6);
}

#[test]
fn a_reset_connection_is_kept_among_the_recent_ends() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let watch = watch();
    let address: IpAddr = PEER_V4.into();
    let _socket = namespace.enter(|| {
        let mut sockets = Sockets {
            peer: &mut peer,
            speech: Speech::V4,
            next_port: 20_000,
            open: Vec::new(),
        };
        let (socket, connection) = sockets.connected();
        sockets.peer.reset(&connection);
        socket
    });
    within(Duration::from_secs(15), || {
        let recent = watch.recent_ends();
        let found = recent
            .top_peers(1000)
            .into_iter()
            .find(|(ip, _)| *ip == address);
        found
            .filter(|(_, count)| *count == 1)
            .map(|_| ())
            .ok_or_else(|| format!("not there: {:?}", recent.by_cause()))
    });
}

#[test]
fn an_unspecified_listener_of_both_families_counts_as_ipv6() {
    let namespace = Netns::new();
    let watch = watch();
    let _listener =
        namespace.enter(|| std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
    within(Duration::from_secs(15), || {
        let shown = census_of(&watch.read().unwrap(), namespace.inode());
        same(&shown, &namespace.ss())?;
        match shown.get(Family::Ipv6, TcpState::Listen) {
            1 => Ok(()),
            other => Err(format!("{other} listeners")),
        }
    });
}
