//! Ends of which both sides are sockets of this host: both count.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tcpstate_common::CloseReason::{
    self, Aborted, ConnectNoPort, ConnectRefused, LocalFin, RemoteFin, ResetReceived,
};

use super::{FAMILIES, SOON, Seen, cut, disconnect};
use crate::{
    actor::listen,
    harness::{Netns, require, scaled, within},
};

/// The two ends of a connection.
struct Pair {
    client: Socket,
    server: Socket,
}

/// Which end does it.
#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Server,
}

impl Pair {
    fn new(loopback: SocketAddr) -> Self {
        let listener = listen(loopback);
        let address = listener.local_addr().unwrap();
        let client = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        client.connect(&address.into()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let server = server.into();
        Self { client, server }
    }

    fn ports(&self) -> [u16; 2] {
        [&self.client, &self.server].map(port)
    }

    /// The end that does it, and the other.
    fn from(self, side: Side) -> (Socket, Socket) {
        match side {
            Side::Client => (self.client, self.server),
            Side::Server => (self.server, self.client),
        }
    }
}

fn port(socket: &Socket) -> u16 {
    let address = socket.local_addr().unwrap();
    address.as_socket().unwrap().port()
}

fn read_to_the_end(mut socket: &Socket) {
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
}

/// Makes a connection in every family, lets either side `act`, and expects its end and the other's.
fn either_side(act: impl Fn(Socket, Socket) + Sync, own: CloseReason, other: CloseReason) {
    let namespace = Netns::new();
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        for side in [Side::Client, Side::Server] {
            let (own_port, other_port) = namespace.enter(|| {
                let pair = Pair::new(family.loopback);
                let [client, server] = pair.ports();
                let (acting, waiting) = pair.from(side);
                act(acting, waiting);
                match side {
                    Side::Client => (client, server),
                    Side::Server => (server, client),
                }
            });
            expected.extend([(own_port, own), (other_port, other)]);
        }
    }
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn who_closes_first_has_local_fin_and_the_other_remote_fin() {
    either_side(
        |first, second| {
            drop(first);
            read_to_the_end(&second);
        },
        LocalFin,
        RemoteFin,
    );
}

#[test]
fn so_linger_0_is_aborted_and_a_reset_received() {
    either_side(
        |first, second| {
            cut(first);
            assert!((&second).read(&mut [0]).is_err());
        },
        Aborted,
        ResetReceived,
    );
}

#[test]
fn close_with_unread_data_is_aborted_and_a_reset_received() {
    either_side(
        |first, second| {
            (&second).write_all(b"unread").unwrap();
            let mut peeked = [std::mem::MaybeUninit::uninit()];
            first.peek(&mut peeked).unwrap();
            drop(first);
            assert!((&second).read(&mut [0]).is_err());
        },
        Aborted,
        ResetReceived,
    );
}

#[test]
fn a_reset_after_shutdown_is_aborted_and_one_received_in_close_wait() {
    either_side(
        |first, second| {
            first.shutdown(Shutdown::Write).unwrap();
            read_to_the_end(&second);
            // FIN_WAIT2 to CLOSE without an error, like an end in good order.
            cut(first);
        },
        Aborted,
        ResetReceived,
    );
}

#[test]
fn close_with_unread_data_in_close_wait_is_aborted() {
    either_side(
        |first, second| {
            (&second).write_all(b"unread").unwrap();
            second.shutdown(Shutdown::Write).unwrap();
            let mut peeked = [std::mem::MaybeUninit::uninit()];
            first.peek(&mut peeked).unwrap();
            drop(first);
        },
        Aborted,
        ResetReceived,
    );
}

#[test]
fn connect_to_af_unspec_is_aborted_and_a_reset_received() {
    either_side(
        |first, second| {
            disconnect(&first);
            assert!((&second).read(&mut [0]).is_err());
        },
        Aborted,
        ResetReceived,
    );
}

#[test]
fn ss_kill_is_aborted_and_a_reset_received() {
    let namespace = Netns::new();
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        let pair = namespace.enter(|| Pair::new(family.loopback));
        let [client, server] = pair.ports();
        let filter = format!("sport = :{client}");
        namespace.command(
            "ss",
            &[
                "--kill",
                "--tcp",
                "--no-header",
                "state",
                "established",
                &filter,
            ],
        );
        expected.extend([(client, Aborted), (server, ResetReceived)]);
        within(SOON, || {
            let ends = seen.ends(&namespace);
            require(ends.len() == expected.len(), format!("{ends:?}"))
        });
    }
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn connections_that_a_closed_listener_had_not_handed_out_are_aborted() {
    let namespace = Netns::new();
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        let (server, client) = namespace.enter(|| {
            let listener = listen(family.loopback);
            let address = listener.local_addr().unwrap();
            let client = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            client.connect(&address.into()).unwrap();
            drop(listener);
            assert!((&client).read(&mut [0]).is_err());
            (address.port(), port(&client))
        });
        expected.extend([(server, Aborted), (client, ResetReceived)]);
    }
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn a_port_where_nothing_listens_refuses_and_the_reset_is_counted() {
    let namespace = Netns::new();
    let seen = Seen::new();
    let before = seen.closes();
    let (sent_before, received_before) = seen.resets();
    let mut expected = Vec::new();
    for family in FAMILIES {
        let client = namespace.enter(|| {
            let address = listen(family.loopback).local_addr().unwrap();
            let client = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            let mut own = family.loopback;
            own.set_port(21_000);
            client.bind(&own.into()).unwrap();
            let refused = client.connect(&address.into()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
            21_000
        });
        expected.push((client, ConnectRefused));
    }
    seen.expect_ends(&namespace, &before, &expected);
    let (sent, received) = seen.resets();
    assert!(received >= received_before + 2, "{received}");
    // Where the kernel tells why, it tells of those without a socket.
    if let Some(count) = sent.get("no_socket") {
        assert!(*count >= sent_before["no_socket"] + 2, "{sent:?}");
    } else {
        assert_eq!(sent.len(), 1, "{sent:?}");
    }
}

#[test]
fn resets_that_are_sent_and_received_are_counted() {
    const COUNT: u64 = 10;

    let namespace = Netns::new();
    let seen = Seen::new();
    let (sent_before, received_before) = seen.resets();
    namespace.enter(|| {
        for _ in 0..COUNT {
            let Pair { client, server } = Pair::new(FAMILIES[0].loopback);
            cut(client);
            assert!((&server).read(&mut [0]).is_err());
        }
    });
    let (sent, received) = seen.resets();
    let sum = |sent: &std::collections::BTreeMap<String, u64>| sent.values().sum::<u64>();
    assert!(sum(&sent) >= sum(&sent_before) + COUNT, "{sent:?}");
    assert!(received >= received_before + COUNT, "{received}");
}

#[test]
fn when_no_local_port_is_free_the_connection_has_no_port() {
    let namespace = Netns::new();
    let seen = Seen::new();
    let before = seen.closes();
    namespace.enter(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40001").unwrap();
    });
    let mut count = 0;
    for family in FAMILIES {
        namespace.enter(|| {
            let mut address = family.loopback;
            address.set_port(21_100);
            let _listener = listen(address);
            let mut open = Vec::new();
            loop {
                let client = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
                match client.connect(&address.into()) {
                    Ok(()) => open.push(client),
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
                        return;
                    }
                }
                assert!(open.len() < 10, "there are more ports than that");
            }
        });
        count += 1;
    }
    let ends = seen.ends(&namespace);
    let without = ends.iter().filter(|end| **end == (0, ConnectNoPort));
    assert_eq!(without.count(), count, "{ends:?}");
    let after = seen.closes();
    assert!(after.of(ConnectNoPort) >= before.of(ConnectNoPort) + 2);
    seen.expect_sum();
}

#[test]
fn of_thousands_of_connections_each_end_is_counted_once_and_each_step_is_timed() {
    let namespace = Netns::new();
    let seen = Seen::new();
    let count = scaled(2_000).max(50);
    let (before, durations_before) = (seen.closes(), seen.durations());
    let missed_before = seen.missed();
    thread::scope(|scope| {
        for family in FAMILIES {
            let namespace = &namespace;
            scope.spawn(move || {
                namespace.enter(|| {
                    let listener = listen(family.loopback);
                    let address = listener.local_addr().unwrap();
                    for _ in 0..count {
                        let client =
                            Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
                        client.connect(&address.into()).unwrap();
                        let (mut server, _) = listener.accept().unwrap();
                        drop(client);
                        assert_eq!(server.read(&mut [0]).unwrap(), 0);
                    }
                });
            });
        }
    });
    // What comes in an interrupt while the program runs on that CPU, the kernel does not show it.
    let all = u64::from(count) * 2 - (seen.missed() - missed_before);
    within(Duration::from_secs(30), || {
        let after = seen.closes();
        for reason in [LocalFin, RemoteFin] {
            let rose = after.of(reason) - before.of(reason);
            let counts = after.count;
            require(
                rose >= all,
                format!("{}: {rose} of {all}: {counts:?}", reason.name()),
            )?;
        }
        Ok(())
    });
    seen.expect_sum();
    let (after, durations) = (seen.closes(), seen.durations());
    let segments = |counters: &tcpstate_common::CloseCounters| {
        counters.three_segments + counters.four_segments
    };
    // Each that this side closed first is in one of the two.
    let closed_first = after.of(LocalFin) - before.of(LocalFin);
    assert!(
        segments(&after) - segments(&before) >= closed_first,
        "{after:?}"
    );
    for state in [
        tcpstate_common::TimedState::SynSent,
        tcpstate_common::TimedState::FinWait1,
        tcpstate_common::TimedState::CloseWait,
        tcpstate_common::TimedState::LastAck,
    ] {
        let (new, old) = (
            durations.of[state.slot()],
            durations_before.of[state.slot()],
        );
        let observed = new.observed() - old.observed();
        assert!(observed >= all, "{state:?}: {observed} of {all}");
        assert_eq!(new.displaced, old.displaced, "{state:?}");
        let mean = (new.sum_ns - old.sum_ns) / observed;
        assert!(mean < 50_000_000, "{state:?}: {mean} ns on average");
    }
}
