//! How connections end, how long the steps of it take, in how many segments, and resets.
//!
//! Counters are of the whole host. What is compared exactly are the records of the namespaces that
//! the tests made, and sums that hold for all; of counters, that they rose by no less.

mod cut_off;
mod durations;
mod over_loopback;
mod over_tun;
mod timeouts;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tcpstate_agent::{
    decode::Transition,
    kernel::{Counted, Loaded},
};
use tcpstate_common::{CloseCounters, CloseReason, StateDurations, TcpState};

use crate::{
    harness::{Netns, load_tracing, require, within},
    peer::{KERNEL_V4, KERNEL_V6, PEER_V4, PEER_V6, Peer},
};

/// Within what the kernel has done what it does at once.
const SOON: Duration = Duration::from_secs(30);
const RING_BYTES: u32 = 4 * 1024 * 1024;

/// The programs, each transition recorded.
struct Seen {
    loaded: Mutex<Loaded>,
    transitions: Mutex<Vec<Transition>>,
}

/// The end of one socket: its local port, and how it was counted.
type End = (u16, CloseReason);

impl Seen {
    fn new() -> Self {
        Self {
            loaded: Mutex::new(load_tracing(RING_BYTES)),
            transitions: Mutex::default(),
        }
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap()
    }

    /// All transitions in `namespace` so far. Those that only correct an end are not among them:
    /// the end has what they say.
    fn transitions(&self, namespace: &Netns) -> Vec<Transition> {
        let mut all = self.transitions.lock().unwrap();
        let mut loaded = self.loaded();
        let refused = loaded.events.as_mut().unwrap().drain(|transition| {
            if transition.old != TcpState::Close || transition.new != TcpState::Close {
                all.push(transition);
                return;
            }
            let ended = all.iter_mut().rfind(|earlier| {
                earlier.socket == transition.socket && earlier.new == TcpState::Close
            });
            ended.expect("no end to correct").reason = transition.reason;
        });
        assert!(refused.is_none(), "{refused:?}");
        let inode = namespace.inode();
        let of_namespace = all.iter().filter(|found| found.namespace == inode);
        of_namespace.copied().collect()
    }

    /// The connections that ended in `namespace` so far.
    fn ends(&self, namespace: &Netns) -> Vec<End> {
        let mut ends: Vec<End> = self
            .transitions(namespace)
            .iter()
            .filter(|transition| transition.new == TcpState::Close)
            .filter_map(|transition| Some((transition.local.port(), transition.reason?)))
            .collect();
        ends.sort_unstable();
        ends
    }

    fn counted(&self) -> Counted {
        let mut loaded = self.loaded();
        loaded.flow.as_mut().unwrap().counted().unwrap()
    }

    fn closes(&self) -> CloseCounters {
        self.counted().closes
    }

    /// Transitions that the program did not see: a timer's, for instance, that ended a connection
    /// in the middle of another transition on its CPU.
    fn missed(&self) -> u64 {
        let loaded = self.loaded();
        loaded.flow.as_ref().unwrap().missed().unwrap()
    }

    fn durations(&self) -> StateDurations {
        self.counted().durations
    }

    /// Connections that ended on this host, as the transitions tell, and as they are counted.
    fn ended(&self) -> [u64; 2] {
        let Counted {
            transitions: matrix,
            closes,
            ..
        } = self.counted();
        let ended = TcpState::ALL
            .into_iter()
            .filter(|old| *old != TcpState::Listen)
            .map(|old| matrix.of(old, TcpState::Close));
        [ended.sum(), closes.count.iter().sum()]
    }

    fn resets(&self) -> (BTreeMap<String, u64>, u64) {
        let mut loaded = self.loaded();
        let resets = loaded.resets.as_mut().unwrap().read().unwrap();
        (resets.sent.unwrap(), resets.received.unwrap())
    }

    /// Whether these connections have ended in `namespace`, each once, and no others. The program
    /// may have missed some.
    fn have_ended(&self, namespace: &Netns, expected: &[End]) -> Result<(), String> {
        let (ends, missed) = (self.ends(namespace), self.missed());
        let mut unseen = expected.to_vec();
        let are_expected = ends.iter().all(|end| {
            let place = unseen.iter().position(|one| one == end);
            place.map(|place| unseen.swap_remove(place)).is_some()
        });
        require(
            are_expected && unseen.len() as u64 <= missed,
            format!("ended: {ends:?}, not {expected:?}, {missed} transitions missed"),
        )
    }

    /// Waits until these connections have ended, and sees to it that they are counted.
    fn expect_ends(&self, namespace: &Netns, before: &CloseCounters, expected: &[End]) {
        within(SOON, || self.have_ended(namespace, expected));
        within(SOON, || {
            let (after, missed) = (self.closes(), self.missed());
            for reason in CloseReason::ALL {
                let count = expected.iter().filter(|(_, found)| *found == reason);
                let count = u64::try_from(count.count()).unwrap();
                let rose = after.of(reason) - before.of(reason);
                require(
                    rose + missed >= count,
                    format!("{}: {rose} of {count}, {missed} missed", reason.name()),
                )?;
            }
            Ok(())
        });
        self.expect_sum();
    }

    /// Every connection that ended is counted once.
    fn expect_sum(&self) {
        within(SOON, || {
            let [ended, counted] = self.ended();
            require(
                ended == counted,
                format!("{counted} counted, {ended} ended"),
            )
        });
    }
}

/// The kernel's and the peer's address, in either family.
const FAMILIES: [Ends; 2] = [
    Ends {
        loopback: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        kernel: SocketAddr::new(std::net::IpAddr::V4(KERNEL_V4), 0),
        peer: SocketAddr::new(std::net::IpAddr::V4(PEER_V4), 0),
    },
    Ends {
        loopback: SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
        kernel: SocketAddr::new(std::net::IpAddr::V6(KERNEL_V6), 0),
        peer: SocketAddr::new(std::net::IpAddr::V6(PEER_V6), 0),
    },
];

/// Addresses of one family.
#[derive(Clone, Copy)]
struct Ends {
    loopback: SocketAddr,
    kernel: SocketAddr,
    peer: SocketAddr,
}

impl Ends {
    fn kernel(mut self, port: u16) -> SocketAddr {
        self.kernel.set_port(port);
        self.kernel
    }

    fn peer(mut self, port: u16) -> SocketAddr {
        self.peer.set_port(port);
        self.peer
    }

    /// A connection that the kernel opens from `port`, still without an answer.
    fn connecting(self, port: u16) -> Socket {
        let socket = Socket::new(Domain::for_address(self.kernel), Type::STREAM, None).unwrap();
        socket.bind(&self.kernel(port).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let begun = socket.connect(&self.peer(port).into());
        assert_eq!(begun.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        socket
    }

    /// One that the peer has taken.
    fn connected(self, peer: &mut Peer, port: u16) -> (Socket, crate::peer::Connection) {
        let socket = self.connecting(port);
        let connection = peer.accept(self.peer(port), self.kernel(port));
        (socket, connection)
    }
}

/// `connect(AF_UNSPEC)`.
fn disconnect(socket: &Socket) {
    use std::os::fd::AsRawFd as _;
    let address = libc::sockaddr {
        sa_family: libc::AF_UNSPEC.try_into().unwrap(),
        sa_data: [0; 14],
    };
    let length = size_of_val(&address).try_into().unwrap();
    // SAFETY: the descriptor is open, and the address has the length that is given.
    let done = unsafe { libc::connect(socket.as_raw_fd(), &raw const address, length) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Closes with a reset.
fn cut(socket: Socket) {
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}
