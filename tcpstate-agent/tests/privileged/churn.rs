//! Many connections: nothing is counted twice, nothing is lost, no gauge is ever far off.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcpstate_agent::{engine::Watch, kernel::plan::ProgramId};
use tcpstate_common::{Family, NamespaceCounters, TcpState, TransitionMatrix};

use crate::{
    harness::{
        DoneOnDrop, Netns, busy_watch, census_of, load_programs, require, same, scaled, watch,
        within,
    },
    peer::{Connection, KERNEL_V4, PEER_V4, Peer},
};

/// A connection from a loopback address of its own, so that ports in TIME_WAIT do not run out.
fn connect_from(number: u32, to: SocketAddr) -> TcpStream {
    let [_, high, low, _] = (number % 20_000).to_be_bytes();
    let from = Ipv4Addr::new(127, 1 + high, low, 1 + (number % 200) as u8);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// Opens a connection, and closes it from the client's side first.
fn one_connection(number: u32, listener: &TcpListener) {
    let client = connect_from(number, listener.local_addr().unwrap());
    let (mut server, _) = listener.accept().unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}

/// Scrapes while one connection after the other comes and goes beside `idle` sockets, and
/// checks that no scrape is off by more than the two sockets that are in flight, and what the
/// kernel did not let the program see.
fn scrape_until(is_done: &AtomicBool, watch: &Watch, namespace: &Netns, idle: u64) -> u32 {
    let missed_before = watch.read().unwrap().missed.unwrap();
    let mut scrapes = 0;
    while !is_done.load(Ordering::Relaxed) {
        let reading = watch.read().unwrap();
        let shown = census_of(&reading, namespace.inode());
        let off = 2 + reading.missed.unwrap() - missed_before;
        let established = shown.in_state(TcpState::Established);
        assert!(
            established.abs_diff(idle) <= off,
            "{established} established after {scrapes} scrapes, not {idle} ± {off}"
        );
        for state in [TcpState::CloseWait, TcpState::LastAck, TcpState::FinWait1] {
            let count = shown.in_state(state);
            assert!(count <= off, "{count} in {}, of {off}", state.name());
        }
        scrapes += 1;
        thread::sleep(Duration::from_millis(20));
    }
    scrapes
}

/// Each connection takes its client through CLOSE, SYN_SENT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2
/// and CLOSE, and its server through (LISTEN,) SYN_RECV, ESTABLISHED, CLOSE_WAIT, LAST_ACK and
/// CLOSE. All but `missed`, in whichever state; never more.
fn each_moved_once(
    before: &NamespaceCounters,
    after: &NamespaceCounters,
    connections: u32,
    missed: u64,
) -> Result<(), String> {
    for (state, entered, left) in [
        (TcpState::Listen, 0, 0),
        (TcpState::SynSent, 1, 1),
        (TcpState::SynRecv, 1, 1),
        (TcpState::Established, 2, 2),
        (TcpState::FinWait1, 1, 1),
        (TcpState::FinWait2, 1, 1),
        (TcpState::CloseWait, 1, 1),
        (TcpState::LastAck, 1, 1),
        (TcpState::Closing, 0, 0),
        (TcpState::Close, 2, 1),
    ] {
        let (before, after) = (before.flow[0][state.slot()], after.flow[0][state.slot()]);
        for (counted, expected) in [
            (after.entered - before.entered, entered * connections),
            (after.left - before.left, left * connections),
        ] {
            assert!(counted <= expected, "{}: {counted}", state.name());
            require(
                u64::from(expected - counted) <= missed,
                format!(
                    "{}: {counted} instead of {expected}, {missed} missed",
                    state.name()
                ),
            )?;
        }
    }
    Ok(())
}

/// The matrix counts the whole machine, so it has at least as many, in the right pairs.
fn each_pair_occurred(before: &TransitionMatrix, after: &TransitionMatrix, connections: u64) {
    for (from, to) in [
        (TcpState::Close, TcpState::SynSent),
        (TcpState::SynSent, TcpState::Established),
        (TcpState::Established, TcpState::FinWait1),
        (TcpState::FinWait1, TcpState::FinWait2),
        (TcpState::FinWait2, TcpState::Close),
        (TcpState::Listen, TcpState::SynRecv),
        (TcpState::SynRecv, TcpState::Established),
        (TcpState::Established, TcpState::CloseWait),
        (TcpState::CloseWait, TcpState::LastAck),
        (TcpState::LastAck, TcpState::Close),
    ] {
        let [before, after] = [before, after].map(|matrix| matrix.of(from, to));
        let counted = after - before;
        assert!(counted >= connections, "{from:?} to {to:?}: {counted}");
    }
}

#[expect(clippy::print_stdout, reason = "how long it takes is worth knowing")]
#[test]
fn after_100_000_connections_every_transition_was_counted_once_and_no_scrape_was_far_off() {
    let connections = scaled(100_000);
    let idle_connections = scaled(3_000);
    let namespace = Netns::new();
    let watch = watch();
    let (listener, _idle) = namespace.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let idle: Vec<_> = (0..idle_connections)
            .map(|number| {
                let client = connect_from(number, to);
                (client, listener.accept().unwrap())
            })
            .collect();
        (listener, idle)
    });
    within(Duration::from_secs(15), || {
        same(
            &census_of(&watch.read().unwrap(), namespace.inode()),
            &namespace.ss(),
        )
    });
    let reading = watch.read().unwrap();
    let (matrix_before, missed_before) = (reading.transitions.unwrap(), reading.missed.unwrap());
    let before = reading.by_namespace[&namespace.inode()].live;

    let is_done = AtomicBool::new(false);
    let scrapes = thread::scope(|scope| {
        let idle = 2 * u64::from(idle_connections);
        let is_done = &is_done;
        let (watch, namespace) = (&watch, &namespace);
        let scraping = scope.spawn(move || scrape_until(is_done, watch, namespace, idle));
        let done = DoneOnDrop(is_done);
        namespace.enter(|| {
            for number in 0..connections {
                one_connection(number, &listener);
            }
        });
        drop(done);
        scraping.join().unwrap()
    });
    assert!(scrapes > 20, "only {scrapes} scrapes");

    // The last connection's segments may still be on their way when its sockets are closed: on a
    // busy machine ksoftirqd delivers them.
    let (reading, missed) = within(Duration::from_secs(15), || {
        let reading = watch.read().unwrap();
        let after = reading.by_namespace[&namespace.inode()].live;
        let missed = reading.missed.unwrap() - missed_before;
        each_moved_once(&before, &after, connections, missed)?;
        Ok((reading, missed))
    });
    // What the kernel did not let the program see is known, and next to nothing.
    assert!(missed < 50, "{missed} transitions missed");
    let matrix = reading.transitions.unwrap();
    each_pair_occurred(&matrix_before, &matrix, u64::from(connections) - missed);
    // How minisockets divide is told by the next snapshot, which the budget puts off for seconds
    // where there are so many.
    let ended = Instant::now();
    within(Duration::from_mins(1), || {
        let reading = watch.read().unwrap();
        let counted_at = reading.by_namespace[&namespace.inode()].counted_at;
        require(counted_at > ended, "no snapshot since")
    });
    println!("a snapshot of them came after {:?}", ended.elapsed());
    within(Duration::from_secs(15), || {
        same(
            &census_of(&watch.read().unwrap(), namespace.inode()),
            &namespace.ss(),
        )
    });
}

/// The kernel changes the list of a tracepoint's programs while events pass.
#[expect(
    clippy::print_stdout,
    reason = "how often it was tried is worth knowing"
)]
#[test]
fn beside_programs_that_come_and_go_at_the_same_hook_every_transition_is_counted_once() {
    let connections = scaled(200_000);
    let namespace = Netns::new();
    let watch = watch();
    let listener = namespace.enter(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let live = || {
        let reading = watch.read().unwrap();
        let of = reading.by_namespace.get(&namespace.inode());
        let live = of.map(|of| of.live).ok_or("it is not counted yet")?;
        Ok::<_, String>((live, reading.missed.unwrap()))
    };
    let (before, missed_before) = within(Duration::from_secs(15), live);
    let is_done = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        let coming = scope.spawn(|| {
            let mut times = 0_u32;
            while !is_done.load(Ordering::Relaxed) {
                drop(load_programs(&[ProgramId::Transition], 4096));
                times += 1;
            }
            times
        });
        let done = DoneOnDrop(&is_done);
        namespace.enter(|| {
            for number in 0..connections {
                one_connection(number, &listener);
            }
        });
        drop(done);
        coming.join().unwrap()
    });
    let missed = within(Duration::from_secs(15), || {
        let (after, missed) = live()?;
        let missed = missed - missed_before;
        each_moved_once(&before, &after, connections, missed)?;
        Ok(missed)
    });
    assert!(missed < 50, "{missed} transitions missed");
    println!("{connections} connections, {times} times another came and went, {missed} missed");
}

#[test]
fn after_50_000_connections_were_half_closed_during_snapshots_gauges_equal_ss() {
    let count = u16::try_from(scaled(50_000)).unwrap();
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    // Nobody accepts them, so that they need no descriptors.
    let kernel: SocketAddr = (KERNEL_V4, 80).into();
    let _listener = namespace.enter(|| {
        for limit in ["core/somaxconn", "ipv4/tcp_max_syn_backlog"] {
            fs::write(format!("/proc/sys/net/{limit}"), "65535").unwrap();
        }
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&kernel.into()).unwrap();
        listener.listen(65_535).unwrap();
        listener
    });
    let mut connections: Vec<Connection> = (0..count)
        .map(|number| {
            let address: IpAddr = PEER_V4.into();
            peer.connect(SocketAddr::new(address, 10_000 + number), kernel)
        })
        .collect();
    let watch = busy_watch();
    within(Duration::from_secs(15), || {
        let shown = census_of(&watch.read().unwrap(), namespace.inode());
        let established = shown.get(Family::Ipv4, TcpState::Established);
        require(
            established == u64::from(count),
            format!("{established} established"),
        )
    });

    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching =
            scope.spawn(|| watch_half_closing(&is_done, &watch, &namespace, u64::from(count)));
        let done = DoneOnDrop(&is_done);
        for chunk in connections.chunks_mut(usize::from(count) / 100) {
            for connection in chunk {
                peer.close(connection);
            }
            // Long enough in all for snapshots to begin and end meanwhile.
            thread::sleep(Duration::from_millis(30));
        }
        drop(done);
        let snapshots = watching.join().unwrap();
        assert!(snapshots >= 2, "{snapshots} snapshots in the meantime");
    });
    within(Duration::from_secs(15), || {
        let truth = namespace.ss();
        assert_eq!(truth.in_state(TcpState::CloseWait), u64::from(count));
        same(
            &census_of(&watch.read().unwrap(), namespace.inode()),
            &truth,
        )
    });
}

/// Watches connections go from ESTABLISHED to CLOSE_WAIT, and checks that none is ever missing
/// or there twice. Returns how many snapshots of them ended while some were in either state.
fn watch_half_closing(
    is_done: &AtomicBool,
    watch: &Watch,
    namespace: &Netns,
    connections: u64,
) -> usize {
    let missed_before = watch.read().unwrap().missed.unwrap();
    let mut snapshots = BTreeSet::new();
    while !is_done.load(Ordering::Relaxed) {
        let reading = watch.read().unwrap();
        let missed = reading.missed.unwrap() - missed_before;
        let seen = reading.by_namespace[&namespace.inode()];
        let [established, close_wait] =
            [TcpState::Established, TcpState::CloseWait].map(|state| seen.sockets.in_state(state));
        // A gauge below zero would show as one that is too large. What was missed may be missing in
        // either.
        let sum = established + close_wait;
        assert!(
            sum.abs_diff(connections) <= 2 + 2 * missed,
            "{sum} in both states, {missed} missed"
        );
        if established > 0 && close_wait > 0 {
            snapshots.insert(seen.counted_at);
        }
    }
    snapshots.len()
}

#[test]
fn a_watch_that_starts_in_the_middle_of_a_storm_is_right_soon_after() {
    let namespace = Netns::new();
    let is_done = AtomicBool::new(false);
    let watch = thread::scope(|scope| {
        scope.spawn(|| {
            namespace.enter(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let mut number = 0;
                while !is_done.load(Ordering::Relaxed) {
                    one_connection(number, &listener);
                    number += 1;
                }
            });
        });
        let _done = DoneOnDrop(&is_done);
        let watch = watch();
        thread::sleep(Duration::from_millis(500));
        watch
    });
    within(Duration::from_secs(15), || {
        same(
            &census_of(&watch.read().unwrap(), namespace.inode()),
            &namespace.ss(),
        )
    });
}
