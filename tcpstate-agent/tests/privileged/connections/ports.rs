//! Local ports, until there are none left.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream},
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::{Cable, FAR, NEAR, close_from_client, connect, ip, listener, look, look_at, set};
use crate::harness::{Netns, require, watch, within};
use tcpstate_agent::{collect::outgoing::ConnectionsReport, engine::Watch};

/// Which part of the ports for going there is taken, as a scrape shows it; 0 where it shows none.
fn used(watch: &Watch, to: SocketAddr) -> f64 {
    let outgoing = watch.read().unwrap().outgoing.clone().unwrap_or_default();
    outgoing.series.used.get(&Some(to)).copied().unwrap_or(0.0)
}

fn wait_until_used(watch: &Watch, to: SocketAddr, expected: f64) {
    within(Duration::from_secs(30), || {
        let shown = used(watch, to);
        require(
            (shown - expected).abs() < 1e-9,
            format!("{to}: {shown} is shown, {expected} is true"),
        )
    });
}

/// A socket of the namespace that is bound to `local` and connected to `to`.
fn connect_from(namespace: &Netns, local: &str, to: SocketAddr) -> TcpStream {
    namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let local: SocketAddr = local.parse().unwrap();
        socket.bind(&local.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.into()
    })
}

/// A dual-stack socket that goes to an IPv4 address.
fn connect_mapped(namespace: &Netns, to: SocketAddr) -> TcpStream {
    let std::net::IpAddr::V4(address) = to.ip() else {
        panic!("{to}");
    };
    let mapped: Ipv6Addr = address.to_ipv6_mapped();
    namespace.enter(|| TcpStream::connect(SocketAddrV6::new(mapped, to.port(), 0, 0)).unwrap())
}

#[test]
fn the_part_is_1_exactly_when_connect_finds_no_port() {
    let cable = Cable::new();
    set(&cable.near, "ip_local_port_range", "40000 40019");
    // Longer than what the standard library reads first of a file whose length is not known.
    set(
        &cable.near,
        "ip_local_reserved_ports",
        "20000-20009,21000-21009,22000-22009,40000-40003",
    );
    set(&cable.near, "tcp_tw_reuse", "0");
    let (server, to) = listener(&cable.far, "10.7.0.2:7000");
    let (_other, other) = listener(&cable.far, "10.7.0.2:7001");
    // Of 16 ports one is listened on, one is bound and one asked for without saying which.
    let _listens = listener(&cable.near, "127.0.0.1:40004");
    let _bound = connect_from(&cable.near, "10.7.0.1:40005", other);
    let _asked = connect_from(&cable.near, "10.7.0.1:0", other);
    let ports = 13_u16;

    let watch = watch();
    let mut clients = vec![connect_mapped(&cable.near, to)];
    let mut servers = vec![server.accept().unwrap().0];
    wait_until_used(&watch, to, 1.0 / f64::from(ports));
    let refused = loop {
        match connect(&cable.near, to) {
            Ok(client) => {
                clients.push(client);
                servers.push(server.accept().unwrap().0);
            }
            Err(error) => break error,
        }
        if clients.len() == usize::from(ports) - 1 {
            wait_until_used(&watch, to, f64::from(ports - 1) / f64::from(ports));
        }
    };
    assert_eq!(
        refused.raw_os_error(),
        Some(Errno::ADDRNOTAVAIL.raw_os_error())
    );
    assert_eq!(clients.len(), usize::from(ports));
    wait_until_used(&watch, to, 1.0);

    // The same ports serve for another destination.
    let _more = connect(&cable.near, other).unwrap();
    wait_until_used(&watch, other, 1.0 / f64::from(ports));

    // A port in TIME_WAIT is as taken as any.
    let closed = 8;
    for (client, server) in clients.drain(..closed).zip(servers.drain(..closed)) {
        close_from_client(client, server);
    }
    assert!(connect(&cable.near, to).is_err());
    wait_until_used(&watch, to, 1.0);
    let ways: Vec<_> = look_at(&watch, &cable.near)
        .ways
        .into_iter()
        .filter(|way| way.remote == to)
        .collect();
    let [way] = ways[..] else { panic!("{ways:?}") };
    assert_eq!((way.local, way.remote.ip()), (ip(NEAR), ip(FAR)));
    assert_eq!((way.held, way.time_wait, way.reusable), (13, 8, 0));

    // Unless it may be taken over.
    set(&cable.near, "tcp_tw_reuse", "1");
    let report = ConnectionsReport::new(&look(&watch));
    let mut destinations = report.destinations.iter();
    let destination = destinations
        .find(|found| found.namespace == cable.near.inode() && found.remote_port == to.port())
        .unwrap();
    assert_eq!((destination.reusable, destination.left()), (8, 8));
    let taken_over = within(Duration::from_secs(15), || {
        connect(&cable.near, to).map_err(|error| error.to_string())
    });
    drop(taken_over);
}

#[test]
fn each_namespace_has_its_own_range_and_the_greatest_part_is_shown() {
    let spaces = [("41000 41009", 5), ("42000 42099", 20)];
    let mut all = Vec::new();
    for (range, connections) in spaces {
        let namespace = Netns::new();
        set(&namespace, "ip_local_port_range", range);
        let (server, to) = listener(&namespace, "127.0.0.1:7002");
        let clients: Vec<_> = (0..connections)
            .map(|_| connect(&namespace, to).unwrap())
            .collect();
        all.push((namespace, server, clients, to));
    }
    let to = all[0].3;
    let watch = watch();
    wait_until_used(&watch, to, 0.5);
    let held: BTreeMap<u32, u32> = look(&watch)
        .outgoing
        .into_iter()
        .flat_map(|(inode, found)| {
            let ways = found.ways.into_iter();
            ways.filter(|way| way.remote == to)
                .map(move |way| (inode, way.held))
        })
        .collect();
    let expected = all
        .iter()
        .map(|(namespace, _, clients, _)| (namespace.inode(), clients.len().try_into().unwrap()));
    assert_eq!(held, expected.collect());
    // The range is read anew each time.
    set(&all[0].0, "ip_local_port_range", "41000 41019");
    let _one = connect(&all[0].0, to).unwrap();
    wait_until_used(&watch, to, 0.3);
}
