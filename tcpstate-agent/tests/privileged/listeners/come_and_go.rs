//! Listeners that are closed, opened again, and closed while they are looked at.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use socket2::{Domain, Socket, Type};

use super::{
    ACCEPT_LIMIT, ACCEPT_QUEUE, DROPS, Look, SHOWN, SOCKETS, SYN_LIMIT, SYN_RECV, says, set,
    ss_half_open, ss_listener,
};
use crate::{
    actor::{Actor, Duty, listen, listen_with},
    harness::{DoneOnDrop, Netns, require, scaled, within},
    page::Page,
    peer::{KERNEL_V4, PEER_V4, Peer},
};

/// Whether nothing of a port is on the page.
fn is_gone(page: &Page, port: u16) -> Result<(), String> {
    let port = port.to_string();
    for metric in [ACCEPT_QUEUE, SYN_LIMIT, SYN_RECV, SOCKETS, DROPS] {
        let left = page.samples(metric, &[("port", &*port)]);
        require(left.is_empty(), format!("{left:?}"))?;
    }
    Ok(())
}

#[test]
fn a_listener_that_is_opened_again_goes_on_where_its_counters_were() {
    const PORT: u16 = 24_071;

    let namespace = Netns::new();
    set(&namespace, "core/somaxconn", 1);
    let mut peer = Peer::new(&namespace);
    let look = Look::new();
    let address = SocketAddr::from((KERNEL_V4, PORT));
    let duty = Duty::Listen {
        address,
        accepts: false,
    };
    let (mut total, mut last_port) = (0, 4000);
    for syns in [30, 20, 40] {
        let server = Actor::start(&namespace, "reopened", duty);
        let mut next = || {
            last_port += 1;
            SocketAddr::from((PEER_V4, last_port))
        };
        for _ in 0..2 {
            peer.connect(next(), address);
        }
        peer.flood((0..syns).map(|_| next()), address);
        let truth = ss_listener(&namespace, PORT);
        assert_eq!((truth.queue, truth.drops), (2, syns));
        total += truth.drops;
        within(SHOWN, || {
            let page = look.page();
            let labels = [("process", "reopened")];
            // Before it is known whose it is it has no series; with one it never goes back.
            let shown = page.samples(DROPS, &[("process", "reopened"), ("port", "24071")]);
            for sample in shown {
                assert!(sample.count() >= total - syns, "{sample:?}");
            }
            says(&page, DROPS, PORT, &labels, total)?;
            says(&page, DROPS, PORT, &[], total)?;
            says(&page, ACCEPT_QUEUE, PORT, &labels, 2)
        });
        drop(server);
        within(SHOWN, || is_gone(&look.page(), PORT));
    }
}

#[test]
fn what_one_that_is_older_than_the_agent_drops_counts_from_the_agents_start() {
    const PORT: u16 = 24_072;

    let namespace = Netns::new();
    set(&namespace, "core/somaxconn", 1);
    let mut peer = Peer::new(&namespace);
    let address = SocketAddr::from((KERNEL_V4, PORT));
    let _listener = namespace.enter(|| listen(address));
    for port in [4001, 4002] {
        peer.connect(SocketAddr::from((PEER_V4, port)), address);
    }
    let mut flood = |ports: std::ops::Range<u16>| {
        peer.flood(ports.map(|port| (PEER_V4, port).into()), address);
        ss_listener(&namespace, PORT).drops
    };
    let before = flood(5000..5030);
    let look = Look::new();
    let after = flood(6000..6020);
    assert_eq!((before, after), (30, 50));
    // This is the first scrape.
    within(SHOWN, || {
        says(&look.page(), DROPS, PORT, &[], after - before)
    });
}

#[test]
fn listeners_that_are_closed_during_snapshots_and_scrapes_leave_nothing_and_break_nothing() {
    const PORTS: [u16; 2] = [24_081, 24_082];
    const STAYING: u16 = 24_083;
    /// So many that a snapshot takes a while.
    const IDLE: u16 = 2_000;
    const DROPPED: u16 = 500;

    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let look = Look::busy();
    // Clients that are half open and will not be answered, at a listener that stays.
    let staying = SocketAddr::from((KERNEL_V4, STAYING));
    set(&namespace, "ipv4/tcp_syncookies", 0);
    // Three quarters of it are let in, and none is given up while this looks.
    set(&namespace, "ipv4/tcp_max_syn_backlog", 2048);
    set(&namespace, "ipv4/tcp_synack_retries", 10);
    // With a queue more than half full the kernel gives some up after seconds.
    let _staying = namespace.enter(|| listen_with(staying, (2 * IDLE).into()));
    let idle = (0..IDLE + DROPPED).map(|port| (PEER_V4, 10_000 + port).into());
    peer.flood(idle, staying);
    let (held, drops) = (
        ss_half_open(&namespace, STAYING),
        ss_listener(&namespace, STAYING).drops,
    );
    assert_eq!(held + drops, u64::from(IDLE + DROPPED));
    let of_staying = |page: &Page| {
        says(page, SYN_RECV, STAYING, &[], held)?;
        says(page, DROPS, STAYING, &[], drops)
    };
    within(SHOWN, || of_staying(&look.page()));

    let (is_over, opened) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let _over = DoneOnDrop(&is_over);
        for port in PORTS {
            let (namespace, is_over, opened) = (&namespace, &is_over, &opened);
            scope.spawn(move || {
                namespace.enter(|| {
                    let address = SocketAddr::from(([127, 0, 0, 1], port));
                    while !is_over.load(Ordering::Relaxed) {
                        let listener = listen(address);
                        let clients: Vec<_> = (0..5).map(|_| connecting(address)).collect();
                        let accepted = listener.accept();
                        drop(listener);
                        drop((clients, accepted));
                        opened.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let (mut scrapes, mut reports) = (0, 0);
        let (enough, enough_opened) = (scaled(300), scaled(1_000));
        while scrapes < enough || opened.load(Ordering::Relaxed) < enough_opened {
            let page = look.page();
            scrapes += 1;
            assert_eq!(look.watch.health(), Ok(()));
            of_staying(&page).unwrap();
            // Both are open at most once.
            for port in PORTS {
                let port = port.to_string();
                let series = page.samples(ACCEPT_QUEUE, &[("port", &*port)]);
                assert!(series.len() <= 1, "{series:?}");
                let queue = page.sum(ACCEPT_QUEUE, &[("port", &port)]);
                assert!(queue <= 5, "{queue}");
            }
            if scrapes % 10 == 0 {
                reports += look.report(&namespace).len();
            }
        }
        assert!(reports > 0);
    });
    within(SHOWN, || {
        let page = look.page();
        for port in PORTS {
            is_gone(&page, port)?;
        }
        of_staying(&page)
    });
}

#[test]
fn of_many_listeners_none_is_missed_or_there_twice_while_others_come_and_go() {
    const STAYING: u16 = 24_085;
    const PASSING: u16 = 24_086;
    const BACKLOG: u64 = 16;

    let count = u64::from(scaled(3_000));
    let namespace = Netns::new();
    let open = |port: u16, count: u64| -> Vec<TcpListener> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let backlog = BACKLOG.try_into().unwrap();
        namespace.enter(|| (0..count).map(|_| listen_with(address, backlog)).collect())
    };
    let _staying = open(STAYING, count);
    let look = Look::busy();
    let is_whole = |page: &Page| says(page, ACCEPT_LIMIT, STAYING, &[], count * BACKLOG);
    within(SHOWN, || is_whole(&look.page()));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = DoneOnDrop(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                drop(open(PASSING, 300));
            }
        });
        for _ in 0..scaled(300) {
            is_whole(&look.page()).unwrap();
        }
    });
    within(SHOWN, || is_gone(&look.page(), PASSING));
}

/// A client whose connection is under way.
fn connecting(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    // Over loopback it may be there already.
    let _ = socket.connect(&address.into());
    socket
}
