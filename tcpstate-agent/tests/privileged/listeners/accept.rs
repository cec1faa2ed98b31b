//! Accept queues that nobody empties, and connections that wait for data as they should.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{
    ACCEPT_LIMIT, ACCEPT_QUEUE, DROPS, Look, SHOWN, SOCKETS, SYN_RECV, WORST, says, set,
    ss_half_open, ss_listener, ss_listeners,
};
use crate::{
    actor::{Actor, Duty, listen},
    agent::Agent,
    close_wait,
    control::ControlSocket,
    documented::assert_as_documented,
    harness::{Netns, require, within},
    peer::{KERNEL_V4, PEER_V4, Peer},
};
use tcpstate_agent::collect::listeners::ListenerTrouble;

#[test]
fn an_accept_loop_that_has_stopped_is_named_with_its_full_queue_and_all_that_waits_behind_it() {
    const PORT: u16 = 24_031;
    const LIMIT: u64 = 8;
    // No more than half of the limit: beyond that the kernel gives them up after seconds.
    const HELD_BACK: u64 = 4;
    const GIVEN_UP: u64 = 3;

    let namespace = Netns::new();
    set(&namespace, "core/somaxconn", LIMIT.try_into().unwrap());
    let mut peer = Peer::new(&namespace);
    let socket = ControlSocket::new("accept");
    let mut flags = socket.flags().to_vec();
    flags.extend(["--snapshot.cpu-percent", "100"]);
    let agent = Agent::start_with(&flags);
    let kernel = SocketAddr::from((KERNEL_V4, PORT));
    let duty = Duty::Listen {
        address: kernel,
        accepts: false,
    };
    let _server = Actor::start(&namespace, "halted", duty);

    // With the queue full the kernel refuses SYNs, so these come first.
    let mut port = 4000;
    let mut next = || {
        port += 1;
        SocketAddr::from((PEER_V4, port))
    };
    let late: Vec<_> = (0..HELD_BACK)
        .map(|_| peer.half_open(next(), kernel))
        .collect();
    // One more than the limit.
    let mut queued: Vec<_> = (0..=LIMIT).map(|_| peer.connect(next(), kernel)).collect();
    for connection in &mut queued[..GIVEN_UP.try_into().unwrap()] {
        peer.close(connection);
    }
    for connection in &late {
        peer.acknowledge(connection);
    }
    peer.flood((0..20).map(|_| next()), kernel);

    let truth = ss_listener(&namespace, PORT);
    assert_eq!((truth.queue, truth.limit), (LIMIT + 1, LIMIT));
    assert!(truth.drops >= 20 + HELD_BACK, "{truth:?}");
    within(SHOWN, || {
        let page = agent.page();
        let halted = [("process", "halted")];
        says(&page, ACCEPT_QUEUE, PORT, &halted, LIMIT + 1)?;
        says(&page, WORST, PORT, &halted, LIMIT + 1)?;
        says(&page, ACCEPT_LIMIT, PORT, &halted, LIMIT)?;
        says(&page, DROPS, PORT, &halted, truth.drops)?;
        let kind = [("process", "halted"), ("kind", "accept_queue_full")];
        says(&page, SYN_RECV, PORT, &kind, HELD_BACK)?;
        says(&page, SYN_RECV, PORT, &halted, HELD_BACK)?;
        let state = [("process", "halted"), ("state", "close_wait")];
        says(&page, SOCKETS, PORT, &state, GIVEN_UP)?;
        let state = [("process", "halted"), ("state", "established")];
        says(&page, SOCKETS, PORT, &state, LIMIT + 1 - GIVEN_UP)?;
        let cause = [("process", "halted"), ("cause", "unaccepted")];
        says(&page, close_wait::SOCKETS, PORT, &cause, GIVEN_UP)
    });
    assert_eq!(ss_half_open(&namespace, PORT), HELD_BACK);
    assert_eq!(ss_listener(&namespace, PORT), truth);

    let listening = socket.ask("listeners", &[]);
    assert_as_documented("listeners", [&listening]);
    let listener = of_port(&listening["listeners"], "halted");
    let diagnosis = socket.ask("diagnose", &["--interval", "0"]);
    let diagnosed = of_port(&diagnosis["listeners"], "halted");
    for one in [listener, diagnosed] {
        assert_eq!(one["trouble"], "accept_queue_full", "{one}");
        assert_eq!(one["worst_accept_queue"], LIMIT + 1, "{one}");
        assert_eq!(one["syn_recv"]["accept_queue_full"], HELD_BACK, "{one}");
        assert_eq!(one["close_wait"], GIVEN_UP, "{one}");
        assert_eq!(one["drops"], truth.drops, "{one}");
        assert_eq!(one["namespace"], namespace.inode(), "{one}");
    }
    let group = of_port(&diagnosis["groups"], "halted");
    assert_eq!(group["cause"], "unaccepted", "{group}");
    assert_eq!(group["sockets"], GIVEN_UP, "{group}");
    assert_eq!(group["process"]["pid"], listener["process"]["pid"]);
    assert_eq!(diagnosed["process"], listener["process"]);
    drop(agent);
}

/// The one of a process.
fn of_port<'a>(all: &'a Value, process: &str) -> &'a Value {
    let mut found = all.as_array().unwrap().iter();
    let found = found.find(|one| one["process"]["name"] == process);
    found.unwrap_or_else(|| panic!("no {process} in {all}"))
}

#[test]
fn connections_that_are_deferred_until_data_comes_are_no_trouble_and_their_handshakes_not_timed() {
    const PORT: u16 = 24_035;
    const COUNT: u64 = 40;

    let namespace = Netns::new();
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let look = Look::new();
    let listener = namespace.enter(|| listen(address));
    let seconds: libc::c_int = 30;
    // SAFETY: the descriptor is open, and the value is an int of the size that is given.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds).try_into().unwrap(),
        )
    };
    assert_eq!(set, 0);
    let mut clients: Vec<TcpStream> = namespace.enter(|| {
        (0..COUNT)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect()
    });
    assert_eq!(ss_half_open(&namespace, PORT), COUNT);
    within(SHOWN, || {
        let page = look.page();
        says(&page, SYN_RECV, PORT, &[("kind", "deferred")], COUNT)?;
        says(&page, SYN_RECV, PORT, &[], COUNT)?;
        let found = look.listener(&namespace, PORT)?;
        require(
            found.trouble.is_none() && found.syn_recv.deferred == COUNT,
            format!("{found:?}"),
        )
    });
    let unmeasured = || {
        let handshakes = look.watch.read().unwrap().handshakes.unwrap();
        handshakes.server.unmeasured
    };
    let before = unmeasured();
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    within(SHOWN, || {
        let page = look.page();
        says(&page, ACCEPT_QUEUE, PORT, &[], COUNT)?;
        says(&page, SYN_RECV, PORT, &[], 0)
    });
    // Others of the host add to it.
    let new = unmeasured() - before;
    assert!(new >= COUNT, "{new}");
}

#[test]
fn of_a_group_that_shares_a_port_the_stuck_member_has_the_full_queue_and_the_worst_is_shown() {
    const PORT: u16 = 24_041;
    const LIMIT: u64 = 8;

    let namespace = Netns::new();
    set(&namespace, "core/somaxconn", LIMIT.try_into().unwrap());
    let look = Look::new();
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let servers = [true, true, false].map(|accepts| Duty::Listen { address, accepts });
    let servers = Actor::start_all(&namespace, servers.map(|duty| ("pool", duty)));
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // It is under way, and with a full queue it stays so.
        let begun = socket.connect(&address.into()).unwrap_err();
        assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS), "{begun}");
        socket
    };
    // So many that by any luck the stuck one gets its share.
    let _clients: Vec<Socket> =
        namespace.enter(|| (0..12 * (LIMIT + 1)).map(|_| connect()).collect());
    within(SHOWN, || {
        let truth = ss_listeners(&namespace, PORT);
        let full: Vec<_> = truth.iter().filter(|one| one.queue > one.limit).collect();
        let [stuck] = full[..] else {
            return Err(format!("{truth:?}"));
        };
        let of_all: u64 = truth.iter().map(|one| one.queue).sum();
        let page = look.page();
        let pool = [("process", "pool")];
        says(&page, ACCEPT_QUEUE, PORT, &pool, of_all)?;
        says(&page, WORST, PORT, &pool, stuck.queue)?;
        says(&page, ACCEPT_LIMIT, PORT, &pool, 3 * LIMIT)?;
        assert_eq!(stuck.queue, LIMIT + 1);

        let report = look.report(&namespace);
        assert_eq!(report.len(), 3, "{report:?}");
        for one in &report {
            let pid = one.process.as_ref().map(|process| process.pid);
            let is_stuck = pid == Some(servers[2].pid());
            let trouble = is_stuck.then_some(ListenerTrouble::AcceptQueueFull);
            let queue = if is_stuck { LIMIT + 1 } else { 0 };
            require(
                one.trouble == trouble && one.worst_accept_queue == queue,
                format!("{one:?}"),
            )?;
        }
        // One series for all three, as they have one address.
        let established: u64 = report.iter().map(|one| one.established).sum();
        let truth = super::ss_connections(&namespace, "established", PORT).len() as u64;
        require(established == truth, format!("{established} of {truth}"))?;
        let state = [("process", "pool"), ("state", "established")];
        says(&page, SOCKETS, PORT, &state, truth)
    });
    std::thread::sleep(Duration::from_millis(1200));
    // The SYNs that came again were dropped again.
    within(SHOWN, || {
        let truth = |()| -> u64 {
            let all = ss_listeners(&namespace, PORT);
            all.iter().map(|one| one.drops).sum()
        };
        let before = truth(());
        let shown = look
            .page()
            .sum(DROPS, &[("process", "pool"), ("port", "24041")]);
        let after = truth(());
        require(
            before > 0 && before <= shown && shown <= after,
            format!("{shown}, not {before} to {after}"),
        )
    });
}
