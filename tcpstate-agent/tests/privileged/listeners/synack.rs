//! SYN-ACKs that are sent again.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Look, RESENT, SHOWN, SYN_RECV, listen_dual, says, set, ss_half_open, ss_resent};
use crate::{
    actor::listen,
    harness::{Netns, require, within},
    peer::{KERNEL_V4, KERNEL_V6, PEER_V4, PEER_V6, Peer},
};

#[test]
fn a_third_ack_that_never_comes_is_waited_for_on_the_kernels_schedule_and_then_given_up() {
    let namespace = Netns::new();
    set(&namespace, "ipv4/tcp_synack_retries", 2);
    let mut peer = Peer::new(&namespace);
    let look = Look::new();
    // The first is over IPv4 to a socket of both families.
    let (first, second) = (24_021, 24_022);
    let _first = listen_dual(&namespace, first);
    let _second = namespace.enter(|| listen((KERNEL_V6, second).into()));
    let begun = Instant::now();
    let all = [
        peer.half_open((PEER_V4, 4000).into(), (KERNEL_V4, first).into()),
        peer.half_open((PEER_V6, 4000).into(), (KERNEL_V6, second).into()),
    ];
    let mut came = [Vec::new(), Vec::new()];
    let mut collect = |peer: &mut Peer, patience| {
        for (at, segment) in peer.collect(patience, |segment| segment.syn) {
            for (connection, came) in all.iter().zip(&mut came) {
                if connection.is_of(&segment) {
                    came.push(at.duration_since(begun).as_secs_f64());
                }
            }
        }
        [came[0].len() as u64, came[1].len() as u64]
    };

    // The kernel sends again after 1 s and after 3 s.
    assert_eq!(collect(&mut peer, Duration::from_secs(2)), [1, 1]);
    within(Duration::from_secs(12), || {
        // What comes meanwhile is taken as it comes, so that it is known when.
        collect(&mut peer, Duration::from_millis(50));
        for port in [first, second] {
            let before = ss_resent(&namespace, port);
            let found = look.listener(&namespace, port)?;
            let page = look.page();
            let after = ss_resent(&namespace, port);
            let (times, resent) = after;
            require(
                before == after && times >= 1 && resent == 1,
                format!("{before:?} and then {after:?}"),
            )?;
            says(&page, RESENT, port, &[], times)?;
            says(&page, SYN_RECV, port, &[("kind", "waiting")], 1)?;
            let shown = (found.syn_recv_retransmits, found.syn_recv_resent);
            require(
                shown == after && found.syn_recv_peers == 1 && found.synack_retransmits == times,
                format!("{found:?}, not {after:?}"),
            )?;
        }
        let shown = look.half_open(&namespace);
        require(shown == 2, format!("{shown} half open"))
    });
    // After 7 s it would for the third time, but gives up.
    assert_eq!(collect(&mut peer, Duration::from_millis(6_500)), [2, 2]);
    for came in came {
        for (at, due) in came.iter().zip([1.0, 3.0]) {
            assert!((at - due).abs() < 0.8, "{came:?}");
        }
    }
    within(SHOWN, || {
        let page = look.page();
        for port in [first, second] {
            assert_eq!(ss_half_open(&namespace, port), 0);
            says(&page, RESENT, port, &[], 2)?;
            says(&page, SYN_RECV, port, &[], 0)?;
        }
        let shown = look.half_open(&namespace);
        require(shown == 0, format!("{shown} half open"))
    });
}

#[test]
fn a_syn_that_comes_again_is_answered_again_and_counted() {
    const PORT: u16 = 24_025;

    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let kernel = SocketAddr::from((KERNEL_V4, PORT));
    let _listener = namespace.enter(|| listen(kernel));
    let look = Look::new();
    let connection = peer.half_open((PEER_V4, 4000).into(), kernel);
    peer.send_syn_again(&connection);
    let came = peer.collect(Duration::from_millis(500), |segment| {
        segment.syn && connection.is_of(segment)
    });
    assert_eq!(came.len(), 1, "{came:?}");
    peer.acknowledge(&connection);
    within(SHOWN, || {
        let page = look.page();
        says(&page, RESENT, PORT, &[], 1)?;
        says(&page, SYN_RECV, PORT, &[], 0)
    });
}
