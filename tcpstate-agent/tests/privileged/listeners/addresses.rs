//! Which listener a connection belongs to.

use std::{
    io::Read as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    ops::RangeInclusive,
};

use super::{Look, SHOWN, SOCKETS, SYN_RECV, listen_dual, says, ss_connections, ss_half_open};
use crate::{
    actor::listen,
    harness::{Netns, require, within},
    peer::{KERNEL_V4, KERNEL_V6, PEER_V4, PEER_V6, Peer},
};

/// The connections of one address of a listener.
struct Connections {
    established: usize,
    close_wait: usize,
    fin_wait2: usize,
    time_wait: usize,
}

impl Connections {
    /// Makes them. Each pair is the client's and the server's end.
    fn make(&self, listener: &TcpListener, to: SocketAddr) -> Vec<(TcpStream, TcpStream)> {
        let pair = || {
            (
                TcpStream::connect(to).unwrap(),
                listener.accept().unwrap().0,
            )
        };
        let mut kept = Vec::new();
        kept.extend((0..self.established).map(|_| pair()));
        for _ in 0..self.close_wait {
            let (client, server) = pair();
            client.shutdown(Shutdown::Write).unwrap();
            kept.push((client, server));
        }
        for _ in 0..self.fin_wait2 {
            let (client, server) = pair();
            server.shutdown(Shutdown::Write).unwrap();
            kept.push((client, server));
        }
        for _ in 0..self.time_wait {
            let (mut client, server) = pair();
            drop(server);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        kept
    }

    fn by_state(&self) -> [(&'static str, &'static str, usize); 4] {
        [
            ("established", "established", self.established),
            ("close_wait", "close-wait", self.close_wait),
            ("fin_wait2", "fin-wait-2", self.fin_wait2),
            ("time_wait", "time-wait", self.time_wait),
        ]
    }
}

/// A listener, what to connect to, and what the series is called.
struct Case {
    port: u16,
    listener: TcpListener,
    to: Vec<SocketAddr>,
    address: IpAddr,
    connections: Connections,
}

fn case(listener: TcpListener, to: &[IpAddr], scale: usize) -> Case {
    let address = listener.local_addr().unwrap();
    Case {
        port: address.port(),
        listener,
        to: to
            .iter()
            .map(|ip| SocketAddr::new(*ip, address.port()))
            .collect(),
        address: address.ip(),
        connections: Connections {
            established: 4 * scale,
            close_wait: 3 * scale,
            fin_wait2: 2 * scale,
            time_wait: scale,
        },
    }
}

#[test]
fn each_connection_is_with_the_listener_it_came_to_in_each_state() {
    const V4: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const OTHER_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    const V6: Ipv6Addr = Ipv6Addr::LOCALHOST;

    let namespace = Netns::new();
    let open = |address: &str| namespace.enter(|| listen(address.parse().unwrap()));
    let cases = [
        case(open("0.0.0.0:24051"), &[V4.into(), OTHER_V4.into()], 1),
        case(open("[::]:24052"), &[V6.into()], 2),
        case(
            listen_dual(&namespace, 24_053),
            &[V4.into(), OTHER_V4.into(), V6.into()],
            1,
        ),
        // Next to one another, of either family.
        case(open("127.0.0.1:24054"), &[V4.into()], 1),
        case(open("0.0.0.0:24054"), &[OTHER_V4.into()], 3),
        case(open("[::1]:24054"), &[V6.into()], 5),
        // An IPv4 address that a socket of IPv6 has.
        case(open("[::ffff:127.0.0.1]:24055"), &[V4.into()], 2),
    ];
    let early = Look::new();
    let _kept: Vec<_> = namespace.enter(|| {
        let all = cases.iter().flat_map(|case| {
            let to = case.to.iter();
            to.flat_map(|to| case.connections.make(&case.listener, *to))
        });
        all.collect()
    });
    // One that was there before the connections, and one that was not.
    for look in [early, Look::new()] {
        within(SHOWN, || {
            let page = look.page();
            for case in &cases {
                let address = case.address.to_string();
                for (state, _, count) in case.connections.by_state() {
                    let count = (count * case.to.len()) as u64;
                    let labels = [("address", &*address), ("state", state)];
                    says(&page, SOCKETS, case.port, &labels, count)?;
                }
            }
            for port in 24_051..=24_055 {
                for (state, name, _) in cases[0].connections.by_state() {
                    let truth = ss_connections(&namespace, name, port).len() as u64;
                    says(&page, SOCKETS, port, &[("state", state)], truth)?;
                }
            }
            Ok(())
        });
    }
}

#[test]
fn half_open_connections_of_both_families_are_with_the_dual_stack_listener_and_few_peers_are_few() {
    const PORT: u16 = 24_061;

    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let look = Look::new();
    let _listener = listen_dual(&namespace, PORT);
    let shows = |count: u64, peers: RangeInclusive<u32>| {
        assert_eq!(ss_half_open(&namespace, PORT), count);
        within(SHOWN, || {
            let page = look.page();
            says(&page, SYN_RECV, PORT, &[("kind", "waiting")], count)?;
            says(&page, SOCKETS, PORT, &[("state", "syn_recv")], count)?;
            let found = look.listener(&namespace, PORT)?;
            let shown = look.half_open(&namespace);
            require(
                shown == count && peers.contains(&found.syn_recv_peers),
                format!("{shown} half open, {found:?}"),
            )
        });
    };
    for port in 4000..4020 {
        peer.half_open((PEER_V4, port).into(), (KERNEL_V4, PORT).into());
        peer.half_open((PEER_V6, port).into(), (KERNEL_V6, PORT).into());
    }
    shows(40, 2..=2);
    // More peers, of IPv4.
    for last in 3..=42 {
        let address = Ipv4Addr::new(10, 9, 0, last);
        peer.half_open((address, 4000).into(), (KERNEL_V4, PORT).into());
    }
    shows(80, 25..=60);
}
