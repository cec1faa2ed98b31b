//! Peers that say nothing any more. All at the same time: each of them takes seconds.

use std::{io::Write as _, time::Duration};

use socket2::TcpKeepalive;
use tcpstate_common::CloseReason::{ConnectTimeout, Timeout};

use super::{FAMILIES, Seen};
use crate::{
    harness::{Netns, within},
    peer::Peer,
};

/// Within what the kernel has given up, with the settings below. Usually it takes a tenth of that; a
/// host that stalls during a handshake makes the kernel take the way for a long one.
const GIVEN_UP: Duration = Duration::from_mins(4);

#[test]
fn peers_that_vanish_are_timeouts_in_every_state_and_while_connecting() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    namespace.enter(|| {
        for (setting, value) in [
            ("tcp_retries2", "2"),
            ("tcp_orphan_retries", "1"),
            ("tcp_syn_retries", "1"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).unwrap();
        }
        // Where the kernel sends several SYNs before it waits for longer each time.
        let _ = std::fs::write("/proc/sys/net/ipv4/tcp_syn_linear_timeouts", "0");
    });
    let seen = Seen::new();
    let before = seen.closes();
    let mut expected = Vec::new();
    let mut kept = Vec::new();
    for family in FAMILIES {
        namespace.enter(|| {
            // ESTABLISHED, with data
            let (mut socket, _) = family.connected(&mut peer, 3901);
            socket.write_all(b"x").unwrap();
            kept.push(socket);
            // ESTABLISHED, idle
            let (socket, _) = family.connected(&mut peer, 3902);
            let keepalive = TcpKeepalive::new()
                .with_time(Duration::from_secs(1))
                .with_interval(Duration::from_secs(1))
                .with_retries(1);
            socket.set_tcp_keepalive(&keepalive).unwrap();
            kept.push(socket);
            // FIN_WAIT1
            let (socket, connection) = family.connected(&mut peer, 3903);
            drop(socket);
            peer.await_fin(&connection);
            // CLOSE_WAIT, with data
            let (mut socket, mut connection) = family.connected(&mut peer, 3904);
            peer.close(&mut connection);
            peer.receive(&connection, |segment| segment.acknowledgment.is_some());
            socket.write_all(b"x").unwrap();
            kept.push(socket);
            // LAST_ACK
            let (socket, mut connection) = family.connected(&mut peer, 3905);
            peer.close(&mut connection);
            peer.receive(&connection, |segment| segment.acknowledgment.is_some());
            drop(socket);
            peer.await_fin(&connection);
            // CLOSING
            let (socket, mut connection) = family.connected(&mut peer, 3906);
            drop(socket);
            peer.await_fin(&connection);
            peer.close(&mut connection);
            // SYN_SENT
            kept.push(family.connecting(3907));
        });
        expected.extend((3901..=3906).map(|port| (port, Timeout)));
        expected.push((3907, ConnectTimeout));
    }
    // As if the cable had been cut: nothing that the kernel sends arrives, nor an error comes back.
    within(GIVEN_UP, || seen.have_ended(&namespace, &expected));
    seen.expect_ends(&namespace, &before, &expected);
}

#[test]
fn with_the_link_down_it_is_a_timeout_too() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    namespace.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_retries2", "2").unwrap());
    let seen = Seen::new();
    let before = seen.closes();
    let family = FAMILIES[0];
    let (mut socket, _) = namespace.enter(|| family.connected(&mut peer, 3951));
    namespace.command("ip", &["link", "set", "tun0", "down"]);
    socket.write_all(b"x").unwrap();
    let expected = [(3951, Timeout)];
    within(GIVEN_UP, || seen.have_ended(&namespace, &expected));
    seen.expect_ends(&namespace, &before, &expected);
}
