//! Ends that need a peer which does as it is told.

use std::net::Shutdown;

use socket2::{Domain, Socket, Type};
use tcpstate_common::{
    CloseReason::{
        ConnectAbandoned, ConnectReset, HandshakeFailed, LocalFin, RemoteFin, ResetReceived,
        ResetSent, Simultaneous,
    },
    TcpState,
};

use super::{End, Ends, FAMILIES, Seen, disconnect};
use crate::{
    harness::{Netns, require, within},
    peer::Peer,
};

/// Does this in both families, and expects these ends.
fn in_each_family(act: impl Fn(Ends, &mut Peer, &mut Vec<End>) + Sync) -> (Netns, Seen) {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        namespace.enter(|| act(family, &mut peer, &mut expected));
    }
    seen.expect_ends(&namespace, &before, &expected);
    (namespace, seen)
}

#[test]
fn both_sides_at_once_is_simultaneous() {
    in_each_family(|family, peer, expected| {
        let (socket, mut connection) = family.connected(peer, 3001);
        drop(socket);
        peer.await_fin(&connection);
        peer.close(&mut connection);
        peer.acknowledge_fin(&mut connection);
        expected.push((3001, Simultaneous));
    });
}

#[test]
fn a_reset_is_received_in_every_state_that_has_a_full_socket() {
    in_each_family(|family, peer, expected| {
        // ESTABLISHED
        let (_established, connection) = family.connected(peer, 3101);
        peer.reset(&connection);
        // FIN_WAIT1
        let (socket, connection) = family.connected(peer, 3102);
        drop(socket);
        peer.await_fin(&connection);
        peer.reset(&connection);
        // FIN_WAIT2
        let (fin_wait2, mut connection) = family.connected(peer, 3103);
        fin_wait2.shutdown(Shutdown::Write).unwrap();
        peer.await_fin(&connection);
        peer.acknowledge_fin(&mut connection);
        peer.reset(&connection);
        // CLOSE_WAIT
        let (_close_wait, mut connection) = family.connected(peer, 3104);
        peer.close(&mut connection);
        peer.reset(&connection);
        // CLOSING
        let (socket, mut connection) = family.connected(peer, 3105);
        drop(socket);
        peer.await_fin(&connection);
        peer.close(&mut connection);
        peer.reset(&connection);
        // LAST_ACK
        let (socket, mut connection) = family.connected(peer, 3106);
        peer.close(&mut connection);
        peer.receive(&connection, |segment| segment.acknowledgment.is_some());
        drop(socket);
        peer.await_fin(&connection);
        peer.reset(&connection);
        expected.extend((3101..=3106).map(|port| (port, ResetReceived)));
    });
}

#[test]
fn data_for_what_the_process_has_closed_is_a_reset_sent_and_none_received() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let before = seen.closes();
    let (sent_before, received_before) = seen.resets();
    let mut expected = Vec::new();
    for family in FAMILIES {
        namespace.enter(|| {
            // The FIN is not acknowledged: FIN_WAIT1, and the way of a reset that was received.
            let (socket, mut connection) = family.connected(&mut peer, 3201);
            drop(socket);
            peer.await_fin(&connection);
            peer.send_data(&mut connection);
            peer.receive(&connection, |segment| segment.rst);
            // It is acknowledged with the data: FIN_WAIT2 for an instant, and no error.
            let (socket, mut connection) = family.connected(&mut peer, 3202);
            drop(socket);
            peer.await_fin(&connection);
            peer.send_data_acknowledging_fin(&mut connection);
            peer.receive(&connection, |segment| segment.rst);
            // The process has shut both ways and still holds it.
            let (socket, mut connection) = family.connected(&mut peer, 3203);
            socket.shutdown(Shutdown::Both).unwrap();
            peer.await_fin(&connection);
            peer.acknowledge_fin(&mut connection);
            peer.send_data(&mut connection);
            peer.receive(&connection, |segment| segment.rst);
            expected.extend((3201..=3203).map(|port| (port, ResetSent)));
        });
    }
    seen.expect_ends(&namespace, &before, &expected);
    let (sent, received) = seen.resets();
    let (sent, sent_before) = (sent.values(), sent_before.values());
    assert!(sent.sum::<u64>() >= sent_before.sum::<u64>() + 6);
    // Whatever else comes on this host; but these were six that looked like some.
    assert!(received < received_before + 6, "{received}");
}

#[test]
fn giving_up_while_connecting_is_abandoned() {
    in_each_family(|family, _, expected| {
        drop(family.connecting(3301));
        disconnect(&family.connecting(3302));
        expected.extend([(3301, ConnectAbandoned), (3302, ConnectAbandoned)]);
    });
}

#[test]
fn a_reset_in_the_middle_of_a_simultaneous_open_is_a_connect_that_was_reset() {
    in_each_family(|family, peer, expected| {
        let _socket = family.connecting(3401);
        let connection = peer.open_at_once(family.peer(3401), family.kernel(3401));
        peer.reset(&connection);
        expected.push((3401, ConnectReset));
    });
}

#[test]
fn a_reset_instead_of_the_third_ack_is_a_handshake_that_failed() {
    in_each_family(|family, peer, expected| {
        // Without a fast open a half-open connection has no full socket.
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1538").unwrap();
        let listener = Socket::new(Domain::for_address(family.kernel), Type::STREAM, None).unwrap();
        listener.bind(&family.kernel(3501).into()).unwrap();
        listener.listen(16).unwrap();
        let connection = peer.half_open_fast(family.peer(3502), family.kernel(3501));
        peer.reset(&connection);
        expected.push((3501, HandshakeFailed));
    });
}

#[test]
fn the_fin_in_the_segment_of_the_ack_makes_three_segments_and_else_it_is_four() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let mut expected = Vec::new();
    let mut counters = seen.closes();
    for (number, family) in (0..).zip(FAMILIES) {
        for (offset, is_closed, is_merged) in [
            (0, true, true),
            (1, false, true),
            (2, true, false),
            (3, false, false),
        ] {
            let port = 3600 + number * 10 + offset;
            let before = counters;
            let _kept = namespace.enter(|| {
                let (socket, mut connection) = family.connected(&mut peer, port);
                let kept = if is_closed {
                    drop(socket);
                    None
                } else {
                    socket.shutdown(Shutdown::Write).unwrap();
                    Some(socket)
                };
                peer.await_fin(&connection);
                if is_merged {
                    peer.close_acknowledging(&mut connection);
                } else {
                    peer.acknowledge_fin(&mut connection);
                    peer.close(&mut connection);
                }
                kept
            });
            expected.push((port, LocalFin));
            within(super::SOON, || {
                let ends = seen.ends(&namespace);
                require(ends == expected, format!("{ends:?}, not {expected:?}"))
            });
            counters = seen.closes();
            let three = counters.three_segments - before.three_segments;
            let four = counters.four_segments - before.four_segments;
            assert!(
                if is_merged { three >= 1 } else { four >= 1 },
                "{is_closed} {is_merged}: {three} of three, {four} of four"
            );
        }
    }
    let states = |port| -> Vec<TcpState> {
        let all = seen.transitions(&namespace);
        let of_port = all.iter().filter(|found| found.local.port() == port);
        of_port.map(|found| found.new).collect()
    };
    // The kernel goes through FIN_WAIT2 either way.
    assert!(states(3600).ends_with(&[TcpState::FinWait2, TcpState::Close]));
}

#[test]
fn an_orphan_in_fin_wait2_ends_as_local_fin_and_is_counted_as_one() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    namespace.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "1").unwrap());
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    for family in FAMILIES {
        namespace.enter(|| {
            let (socket, mut connection) = family.connected(&mut peer, 3701);
            drop(socket);
            peer.await_fin(&connection);
            peer.acknowledge_fin(&mut connection);
        });
        expected.push((3701, LocalFin));
    }
    seen.expect_ends(&namespace, &before, &expected);
    let orphaned = seen.closes().fin_wait2_orphaned - before.fin_wait2_orphaned;
    assert!(orphaned >= 2, "{orphaned}");
    // The minisocket goes by tcp_fin_timeout, without another end.
    within(super::SOON, || {
        let left = namespace.ss().in_state(TcpState::FinWait2);
        require(left == 0, format!("{left} left"))
    });
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn the_other_side_first_is_remote_fin() {
    in_each_family(|family, peer, expected| {
        let (socket, mut connection) = family.connected(peer, 3801);
        peer.close(&mut connection);
        peer.receive(&connection, |segment| segment.acknowledgment.is_some());
        drop(socket);
        peer.await_fin(&connection);
        peer.acknowledge_fin(&mut connection);
        expected.push((3801, RemoteFin));
    });
}
