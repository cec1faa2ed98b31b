//! More half-open connections than a listener sees in peace, and more than it takes.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    DROPS, Look, RESENT, SHOWN, SYN_LIMIT, SYN_RECV, says, set, ss_half_open, ss_listener,
    ss_resent,
};
use crate::{
    actor::listen_with,
    harness::{DoneOnDrop, Netns, require, scaled, within},
    peer::{KERNEL_V4, Peer},
};
use tcpstate_agent::collect::listeners::ListenerTrouble;

/// So many addresses of the network that is for measurements, and one port.
fn spoofed(count: u32) -> impl Iterator<Item = SocketAddr> {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    (first..first + count).map(|address| (Ipv4Addr::from(address), 4000).into())
}

/// A namespace with a way back to whoever floods it.
fn flooded() -> (Netns, Peer) {
    let namespace = Netns::new();
    let peer = Peer::new(&namespace);
    namespace.command("ip", &["route", "add", "default", "dev", "tun0"]);
    (namespace, peer)
}

fn listener(namespace: &Netns, port: u16, backlog: i32) -> (TcpListener, SocketAddr) {
    let kernel = SocketAddr::from((KERNEL_V4, port));
    let listener = namespace.enter(|| listen_with(kernel, backlog));
    (listener, kernel)
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "how long scrapes take is worth knowing"
)]
fn fifty_thousand_half_open_connections_equal_ss_and_so_do_their_retransmits() {
    const PORT: u16 = 24_001;

    // With a queue that is more than half full the kernel gives the old ones up after seconds.
    const BACKLOG: u32 = 131_072;

    let count = scaled(50_000);
    let truth = u64::from(count);
    let (namespace, mut peer) = flooded();
    set(&namespace, "core/somaxconn", BACKLOG);
    set(&namespace, "ipv4/tcp_max_syn_backlog", 2 * BACKLOG);
    // None is given up while this looks.
    set(&namespace, "ipv4/tcp_synack_retries", 10);
    set(&namespace, "ipv4/tcp_syncookies", 0);
    // What the device has no room for was not sent again, to the kernel. On a busy host it still
    // has no room for all.
    let room = (4 * count).to_string();
    namespace.command("ip", &["link", "set", "tun0", "txqueuelen", &room]);
    let (listening, kernel) = listener(&namespace, PORT, BACKLOG.cast_signed());
    let look = Look::busy();

    let begun = Instant::now();
    peer.flood(spoofed(count), kernel);
    println!("{count} SYNs took {:?}", begun.elapsed());
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let draining = scope.spawn(|| {
            let mut resent = 0;
            while !is_done.load(Ordering::Relaxed) {
                // The first ones were taken off during the flood, or come now.
                resent += peer.collect(Duration::from_millis(100), |_| false).len();
            }
            resent
        });
        let done = DoneOnDrop(&is_done);
        assert_eq!(ss_half_open(&namespace, PORT), truth);
        assert_eq!(ss_listener(&namespace, PORT).drops, 0);
        within(SHOWN, || {
            let scraping = Instant::now();
            let page = look.page();
            let took = scraping.elapsed();
            println!("a scrape takes {took:?}");
            assert!(took < Duration::from_secs(5), "{took:?}");
            let shown = look.half_open(&namespace);
            require(shown == truth, format!("{shown} of {truth} in the census"))?;
            says(&page, SYN_RECV, PORT, &[], truth)?;
            says(&page, SYN_RECV, PORT, &[("kind", "waiting")], truth)?;
            says(&page, SYN_LIMIT, PORT, &[], BACKLOG.into())?;
            says(&page, DROPS, PORT, &[], 0)
        });
        within(SHOWN, || {
            let before = ss_resent(&namespace, PORT);
            let (page, found) = (look.page(), look.listener(&namespace, PORT)?);
            let after = ss_resent(&namespace, PORT);
            let shown = (found.syn_recv_retransmits, found.syn_recv_resent);
            require(
                before == after && shown == after && 2 * after.1 >= truth,
                format!("{shown:?} was between {before:?} and {after:?}"),
            )?;
            // Those of the whole host.
            let aged = page.sum("tcpstate_syn_recv_age_sockets", &[("older_than", "1")]);
            let resent = page.sum(
                "tcpstate_syn_recv_retransmits_sockets",
                &[("at_least", "1")],
            );
            require(
                aged >= truth && resent >= after.1,
                format!("{aged} are old and {resent} were sent again"),
            )?;
            says(&page, RESENT, PORT, &[], after.0)?;
            assert!(found.syn_recv_oldest_seconds >= 1.0, "{found:?}");
            assert!(found.syn_recv_peers > 200, "{found:?}");
            assert_eq!(found.trouble, Some(ListenerTrouble::ManyPeersSilent));
            Ok(())
        });
        assert_eq!(look.watch.health(), Ok(()));
        drop(done);
        draining.join().unwrap();
    });
    // The kernel drops them with their listener.
    drop(listening);
    within(SHOWN, || {
        let shown = look.half_open(&namespace);
        require(shown == 0, format!("{shown} are left"))?;
        let aged = look
            .page()
            .sum("tcpstate_syn_recv_age_sockets", &[("older_than", "1")]);
        require(aged < truth, format!("{aged} are left among the old ones"))
    });
}

#[test]
#[expect(clippy::print_stdout, reason = "kernels differ")]
fn a_small_queue_fills_up_to_its_limit_and_what_is_dropped_is_counted() {
    const COUNT: u32 = 1_000;

    /// A setting, and how many can be half open with it.
    struct Case {
        port: u16,
        syncookies: u32,
        max_syn_backlog: u32,
        backlog: i32,
        limit: u64,
    }

    let (namespace, mut peer) = flooded();
    let look = Look::new();
    for Case {
        port,
        syncookies,
        max_syn_backlog,
        backlog,
        limit,
    } in [
        Case {
            port: 24_011,
            syncookies: 0,
            max_syn_backlog: 4096,
            backlog: 128,
            limit: 128,
        },
        Case {
            port: 24_012,
            syncookies: 0,
            max_syn_backlog: 256,
            backlog: 4096,
            limit: 192,
        },
        Case {
            port: 24_013,
            syncookies: 1,
            max_syn_backlog: 256,
            backlog: 128,
            limit: 128,
        },
    ] {
        set(&namespace, "ipv4/tcp_syncookies", syncookies);
        set(&namespace, "ipv4/tcp_max_syn_backlog", max_syn_backlog);
        let (_listener, kernel) = listener(&namespace, port, backlog);
        let mut fill = || {
            peer.flood(spoofed(COUNT), kernel);
            let half_open = ss_half_open(&namespace, port);
            (half_open, ss_listener(&namespace, port).drops)
        };
        let (mut truth, mut drops) = fill();
        println!("port {port}: {truth} with a limit of {limit}");
        // Kernels ask whether the limit is exceeded, or reached, before they take one more.
        assert!((limit..=limit + 1).contains(&truth), "{truth} of {limit}");
        let dropped = u64::from(COUNT) - truth;
        assert_eq!(drops, if syncookies == 0 { dropped } else { 0 });
        within(SHOWN, || {
            // A queue that is full is more than half full, and then the kernel gives up after
            // seconds what is in it.
            if ss_half_open(&namespace, port) != truth {
                (truth, drops) = fill();
            }
            let shown = look.half_open(&namespace);
            require(shown == truth, format!("{shown} of {truth} in the census"))?;
            let page = look.page();
            says(&page, SYN_RECV, port, &[("kind", "waiting")], truth)?;
            says(&page, SYN_LIMIT, port, &[], limit)?;
            says(&page, DROPS, port, &[], drops)?;
            let found = look.listener(&namespace, port)?;
            require(
                found.trouble == Some(ListenerTrouble::ManyPeersSilent),
                format!("{found:?}"),
            )
        });
    }
}
