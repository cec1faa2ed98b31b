//! Ends that a system call, a timer or ICMP makes: from each state, with what is known of it there.

use std::{net::Shutdown, os::fd::AsRawFd as _, thread, time::Duration};

use socket2::{Domain, Socket, Type};
use tcpstate_common::{
    CloseReason::{
        self, Aborted, ConnectAbandoned, ConnectRefused, HandshakeFailed, LocalFin, Other,
    },
    Durations, TcpState, TimedState,
};

use super::{End, Ends, FAMILIES, SOON, Seen, cut};
use crate::{
    harness::{Netns, require, within},
    peer::{Connection, Peer},
};

/// How long a socket is left in its state.
const STAY: Duration = Duration::from_millis(60);
/// More than a test can take.
const LONG: Duration = Duration::from_mins(10);

/// The states that a connection can be brought into by hand, and what it takes.
const STATES: [(u16, TcpState); 6] = [
    (1, TcpState::Established),
    (2, TcpState::FinWait1),
    (3, TcpState::FinWait2),
    (4, TcpState::CloseWait),
    (5, TcpState::Closing),
    (6, TcpState::LastAck),
];

/// A connection in `state` that its process still has, with data to read if it is to have some.
fn connection_in(
    family: Ends,
    peer: &mut Peer,
    port: u16,
    state: TcpState,
    has_data: bool,
) -> (Socket, Connection) {
    let (socket, mut connection) = family.connected(peer, port);
    if has_data {
        peer.send_data(&mut connection);
        let mut peeked = [std::mem::MaybeUninit::uninit()];
        socket.set_nonblocking(false).unwrap();
        socket.peek(&mut peeked).unwrap();
    }
    if matches!(state, TcpState::CloseWait | TcpState::LastAck) {
        peer.close(&mut connection);
        peer.receive(&connection, |segment| segment.acknowledgment.is_some());
    }
    if !matches!(state, TcpState::Established | TcpState::CloseWait) {
        socket.shutdown(Shutdown::Write).unwrap();
        peer.await_fin(&connection);
    }
    match state {
        TcpState::FinWait2 => peer.acknowledge_fin(&mut connection),
        TcpState::Closing => peer.close(&mut connection),
        _ => {}
    }
    (socket, connection)
}

/// Brings a connection into each state in both families, lets `act` end it, and expects it to have
/// been `reason` and every duration to be shorter than the test.
fn from_each_state(has_data: bool, act: impl Fn(Socket) + Sync, reason: CloseReason) {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let (before, durations) = (seen.closes(), seen.durations());
    let mut expected: Vec<End> = Vec::new();
    for family in FAMILIES {
        for (number, state) in STATES {
            let port = 4000 + number;
            let socket =
                namespace.enter(|| connection_in(family, &mut peer, port, state, has_data).0);
            within(SOON, || {
                let last = seen.transitions(&namespace);
                let last = last.iter().rfind(|found| found.local.port() == port);
                let reached = last.is_some_and(|found| found.new == state);
                require(reached, format!("not in {state:?}: {last:?}"))
            });
            thread::sleep(STAY);
            namespace.enter(|| act(socket));
            expected.push((port, reason));
            expected.sort_unstable();
        }
    }
    seen.expect_ends(&namespace, &before, &expected);
    let after = seen.durations();
    for state in TimedState::ALL {
        let sum = after.of[state.slot()].sum_ns - durations.of[state.slot()].sum_ns;
        assert!(Duration::from_nanos(sum) < LONG, "{state:?}: {sum} ns");
    }
    // Of both families, each for as long as it was left there.
    for state in [
        TimedState::Closing,
        TimedState::LastAck,
        TimedState::FinWait1,
    ] {
        let [new, old] = [&after, &durations].map(|all| all.of[state.slot()]);
        let least = STAY.as_nanos() * 2;
        let sum = new.sum_ns - old.sum_ns;
        assert!(u128::from(sum) >= least, "{state:?}: {sum} ns");
    }
}

#[test]
fn so_linger_0_is_aborted_from_each_state_and_takes_as_long_as_it_took() {
    from_each_state(false, cut, Aborted);
}

#[test]
fn close_with_unread_data_is_aborted_from_each_state_and_takes_as_long_as_it_took() {
    from_each_state(true, drop, Aborted);
}

#[test]
fn so_linger_0_while_connecting_is_abandoned() {
    let namespace = Netns::new();
    let _peer = Peer::new(&namespace);
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        namespace.enter(|| cut(family.connecting(4101)));
        expected.push((4101, ConnectAbandoned));
    }
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn who_wants_no_fin_wait2_aborts_whether_he_closes_in_it_or_before() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        namespace.enter(|| {
            // In FIN_WAIT2
            let (socket, mut connection) = family.connected(&mut peer, 4201);
            linger2(&socket, -1);
            socket.shutdown(Shutdown::Write).unwrap();
            peer.await_fin(&connection);
            peer.acknowledge_fin(&mut connection);
            within(SOON, || {
                let state = namespace.ss().in_state(TcpState::FinWait2);
                require(state == 1, format!("{state} in FIN_WAIT2"))
            });
            drop(socket);
            peer.receive(&connection, |segment| segment.rst);
            // In FIN_WAIT1: the acknowledgment of the FIN is answered with a reset.
            let (socket, mut connection) = family.connected(&mut peer, 4202);
            linger2(&socket, -1);
            drop(socket);
            peer.await_fin(&connection);
            peer.acknowledge_fin(&mut connection);
            peer.receive(&connection, |segment| segment.rst);
        });
        expected.extend([(4201, Aborted), (4202, Aborted)]);
    }
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn a_full_orphan_in_fin_wait2_that_the_peers_fin_ends_has_a_duration() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    // Longer than a minute: until then the full socket stays.
    namespace.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "100").unwrap());
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        let durations = seen.durations().of[TimedState::FinWait2.slot()];
        namespace.enter(|| {
            let (socket, mut connection) = family.connected(&mut peer, 4301);
            drop(socket);
            peer.await_fin(&connection);
            peer.acknowledge_fin(&mut connection);
            thread::sleep(STAY);
            peer.close(&mut connection);
        });
        expected.push((4301, LocalFin));
        seen.expect_ends(&namespace, &before, &expected);
        within(SOON, || {
            rose_by(&seen, TimedState::FinWait2, &durations, STAY)
        });
    }
}

#[test]
fn an_orphan_in_fin_wait2_whose_time_is_over_is_aborted_by_its_reset() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let set = |seconds: &str| {
        namespace.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", seconds).unwrap());
    };
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        // The full socket stays for a second, and is not handed over if by then it was not to wait.
        set("61");
        namespace.enter(|| {
            let (socket, mut connection) = family.connected(&mut peer, 4401);
            drop(socket);
            peer.await_fin(&connection);
            peer.acknowledge_fin(&mut connection);
            set("1");
            peer.receive(&connection, |segment| segment.rst);
        });
        expected.push((4401, Aborted));
    }
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn a_reset_for_an_accepted_child_of_a_fast_open_is_a_handshake_that_failed() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        let _child = namespace.enter(|| {
            std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1538").unwrap();
            let listener =
                Socket::new(Domain::for_address(family.kernel), Type::STREAM, None).unwrap();
            listener.bind(&family.kernel(4501).into()).unwrap();
            listener.listen(16).unwrap();
            let connection = peer.half_open_fast(family.peer(4502), family.kernel(4501));
            let (child, _) = listener.accept().unwrap();
            peer.reset(&connection);
            child
        });
        expected.push((4501, HandshakeFailed));
    }
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn what_icmp_says_ends_a_connect_and_nothing_else() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    let family = FAMILIES[0];
    namespace.enter(|| {
        // Port unreachable is a refusal, whoever says it.
        for (port, code, reason) in [(4601, 3, ConnectRefused), (4602, 1, Other)] {
            let _socket = family.connecting(port);
            peer.answer_unreachable(family.peer(port), family.kernel(port), code);
            expected.push((port, reason));
            within(SOON, || {
                let ends = seen.ends(&namespace);
                require(ends == expected, format!("{ends:?}, not {expected:?}"))
            });
        }
        // One that is established goes on, and closes in good order.
        let (socket, mut connection) = family.connected(&mut peer, 4603);
        icmp_is_told(&socket);
        drop(socket);
        let fin = peer.receive(&connection, |segment| segment.fin);
        peer.unreachable(&fin, 1);
        peer.acknowledge_fin(&mut connection);
        peer.close(&mut connection);
        expected.push((4603, LocalFin));
    });
    seen.expect_ends(&namespace, &before, &expected);
}

/// Whether one more of `state` was measured since `before`, and took at least that long.
fn rose_by(
    seen: &Seen,
    state: TimedState,
    before: &Durations,
    least: Duration,
) -> Result<(), String> {
    let after = seen.durations().of[state.slot()];
    let sum = Duration::from_nanos(after.sum_ns - before.sum_ns);
    require(
        after.observed() > before.observed() && sum >= least && sum < LONG,
        format!("{state:?}: {sum:?}, {after:?}"),
    )
}

/// `TCP_LINGER2`: how long the socket may be in FIN_WAIT2.
fn linger2(socket: &Socket, seconds: i32) {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, seconds);
}

/// `IP_RECVERR`: what ICMP says is told to the process.
fn icmp_is_told(socket: &Socket) {
    set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1);
}

fn set_option(socket: &Socket, level: i32, name: i32, value: i32) {
    let length = size_of_val(&value).try_into().unwrap();
    // SAFETY: the descriptor is open, and the value has the length that is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
