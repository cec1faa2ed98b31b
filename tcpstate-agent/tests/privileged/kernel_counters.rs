//! The kernel's own counters, summed up over namespaces, and the limits of the agent's own.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use tcpstate_agent::{
    collect::counters::KernelCounter::{
        self, AbortOnClose, AbortOnData, AbortOnLinger, ListenDrops, ListenOverflows, OutRsts,
    },
    engine::{Reading, Watch},
};
use tcpstate_common::TcpState;

use crate::{
    agent::Agent,
    harness::{Netns, require, scaled, watch, within},
};

/// Within what a counter has come to be shown.
const SHOWN: Duration = Duration::from_secs(30);
/// Within what a new namespace is found: the next scrape.
const FOUND: Duration = Duration::from_secs(30);

/// What the kernel says in `namespace`.
fn truth(namespace: &Netns, counter: KernelCounter) -> u64 {
    let name = counter.kernel_name();
    let (table, name) = match name.strip_prefix("LINUX_MIB_") {
        Some(name) => ("netstat", name),
        None => ("snmp", name.strip_prefix("TCP_MIB_").unwrap()),
    };
    let text =
        namespace.enter(|| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap());
    // A line of names, and one of values below it.
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_ascii_whitespace().collect())
        .collect();
    let value = lines.chunks_exact(2).find_map(|pair| {
        let place = pair[0]
            .iter()
            .position(|found| found.to_ascii_uppercase() == name)?;
        pair[1].get(place)?.parse().ok()
    });
    value.unwrap()
}

fn shown(reading: &Reading, counter: KernelCounter) -> u64 {
    reading.kernel_counters.get(counter).unwrap()
}

fn read(watch: &Watch, counter: KernelCounter) -> u64 {
    shown(&watch.read().unwrap(), counter)
}

/// Fails until the sum has risen by what `namespace` counts. Others on the machine may add to it.
fn expect_shown(watch: &Watch, counter: KernelCounter, before: u64, expected: u64) {
    within(SHOWN, || {
        let rose = read(watch, counter) - before;
        require(
            rose >= expected,
            format!("{counter:?} rose by {rose}, not {expected}"),
        )
    });
}

/// Overflows the accept queue of a listener for one connection, so that SYNs are dropped.
fn overflow(namespace: &Netns) {
    namespace.enter(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                // In progress for as long as its SYNs are dropped.
                let _ = client.connect(&address.into());
                client
            })
            .collect();
        drop(clients);
    });
}

/// A connection: what the server has, and what the client has.
fn connect() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Waits for the peer to be told.
fn expect_reset(mut peer: TcpStream) {
    let end = peer.read(&mut [0]);
    assert!(end.is_err(), "{end:?}");
}

/// Closes connections with SO_LINGER 0.
fn cut_off(namespace: &Netns, connections: u32) {
    namespace.enter(|| {
        for _ in 0..connections {
            let (server, client) = connect();
            SockRef::from(&server)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(server);
            expect_reset(client);
        }
    });
}

/// Closes connections in FIN_WAIT2 with TCP_LINGER2 below 0, which nothing else on a machine does.
fn cut_short(namespace: &Netns, connections: u64) {
    let pairs: Vec<_> = namespace.enter(|| (0..connections).map(|_| connect()).collect());
    for (server, _) in &pairs {
        set_linger2(server, -1);
        server.shutdown(Shutdown::Write).unwrap();
    }
    within(Duration::from_secs(15), || {
        let closing = namespace.ss().in_state(TcpState::FinWait2);
        require(
            closing == connections,
            format!("{closing} of {connections} in FIN_WAIT2"),
        )
    });
    // The servers first: then their FIN_WAIT2 is cut short.
    let (servers, clients): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    drop(servers);
    drop(clients);
}

fn set_linger2(socket: &TcpStream, seconds: libc::c_int) {
    let size = size_of_val(&seconds).try_into().unwrap();
    // SAFETY: the descriptor is open, and the pointer is to as many bytes as the size says.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            (&raw const seconds).cast(),
            size,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn an_accept_queue_that_overflows_is_shown_as_the_kernel_counts_it() {
    let namespace = Netns::new();
    let watch = watch();
    let (overflows, drops) = (read(&watch, ListenOverflows), read(&watch, ListenDrops));
    overflow(&namespace);
    let true_overflows = truth(&namespace, ListenOverflows);
    let true_drops = truth(&namespace, ListenDrops);
    assert!(true_overflows > 0 && true_drops >= true_overflows);
    expect_shown(&watch, ListenOverflows, overflows, true_overflows);
    expect_shown(&watch, ListenDrops, drops, true_drops);
}

#[test]
fn connections_that_are_cut_off_are_shown_by_reason_and_with_their_resets() {
    let namespace = Netns::new();
    let watch = watch();
    let counters = [AbortOnData, AbortOnClose, OutRsts];
    let before = counters.map(|counter| read(&watch, counter));
    cut_off(&namespace, 3);
    namespace.enter(|| {
        for _ in 0..2 {
            let (server, mut client) = connect();
            client.write_all(b"never read").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            // So that it has come.
            server.peek(&mut [0]).unwrap();
            drop(server);
            expect_reset(client);
        }
    });
    assert_eq!(truth(&namespace, AbortOnData), 3);
    assert_eq!(truth(&namespace, AbortOnClose), 2);
    for (counter, before) in counters.into_iter().zip(before) {
        expect_shown(&watch, counter, before, truth(&namespace, counter));
    }
    assert_eq!(truth(&namespace, OutRsts), 5);
}

#[test]
fn what_was_counted_before_the_agent_is_not_shown() {
    let namespace = Netns::new();
    let before = scaled(1000);
    cut_off(&namespace, before);
    let watch = watch();
    let reading = watch.read().unwrap();
    let (aborts, resets) = (shown(&reading, AbortOnData), shown(&reading, OutRsts));
    assert!(aborts.max(resets) < before.into(), "{aborts} {resets}");
}

#[test]
fn a_namespace_that_is_gone_takes_nothing_away_and_one_made_since_counts_from_zero() {
    let watch = watch();
    let before = read(&watch, AbortOnLinger);
    let expect_exactly = |expected| {
        within(FOUND, || {
            let rose = read(&watch, AbortOnLinger) - before;
            assert!(rose <= expected, "rose by {rose}, more than {expected}");
            require(rose == expected, format!("rose by {rose}, not {expected}"))
        });
    };
    let gone = {
        let namespace = Netns::new();
        cut_short(&namespace, 7);
        expect_exactly(7);
        namespace.inode()
    };
    within(2 * FOUND, || {
        let reading = watch.read().unwrap();
        assert_eq!(shown(&reading, AbortOnLinger), before + 7);
        require(!reading.by_namespace.contains_key(&gone), "still counted")
    });
    // The next one is likely to get the same number.
    let next = Netns::new();
    cut_short(&next, 2);
    expect_exactly(9);
    cut_short(&next, 6);
    expect_exactly(15);
    for _ in 0..200 {
        thread::sleep(Duration::from_millis(10));
        assert_eq!(read(&watch, AbortOnLinger), before + 15);
    }
}

#[test]
fn a_quiet_namespace_among_many_is_read_at_each_scrape() {
    let others: Vec<Netns> = (0..40).map(|_| Netns::new()).collect();
    let namespace = Netns::new();
    let watch = watch();
    within(SHOWN, || {
        let reading = watch.read().unwrap();
        require(
            reading.by_namespace.len() > others.len(),
            "not all have been counted",
        )
    });
    let before = read(&watch, OutRsts);
    // A reset without a socket, and so without a transition on the side that sends it.
    namespace.enter(|| assert!(TcpStream::connect("127.0.0.1:1").is_err()));
    cut_off(&namespace, 1);
    expect_shown(&watch, OutRsts, before, truth(&namespace, OutRsts));
}

#[test]
fn limits_are_those_of_the_agents_own_namespace() {
    let agent = Agent::start();
    let page = agent.page();
    for (metric, file) in [
        ("tcpstate_tcp_syncookies", "ipv4/tcp_syncookies"),
        ("tcpstate_somaxconn", "core/somaxconn"),
        ("tcpstate_tcp_max_syn_backlog", "ipv4/tcp_max_syn_backlog"),
        ("tcpstate_tcp_synack_retries", "ipv4/tcp_synack_retries"),
    ] {
        let text = fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap();
        let limit: u64 = text.trim().parse().unwrap();
        let samples = page.samples(metric, &[]);
        assert_eq!(samples.len(), 1, "{metric}");
        assert_eq!(samples[0].count(), limit, "{metric}");
    }
    assert_eq!(page.samples("tcpstate_syncookies_total", &[]).len(), 3);
    assert_eq!(page.samples("tcpstate_aborts_total", &[]).len(), 6);
}
