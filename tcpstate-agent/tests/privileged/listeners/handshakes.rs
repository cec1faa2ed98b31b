//! How long handshakes took. They are of the whole host, so what the kernel counted as
//! established is what they must add up to.

use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

use super::{Look, RESENT, SHOWN, set};
use crate::{
    actor::listen,
    harness::{Netns, require, scaled, within},
    page::Page,
    peer::{KERNEL_V4, PEER_V4, Peer},
};

/// The handshakes of one role.
#[derive(Clone, Copy, Debug)]
struct Handshakes {
    timed: u64,
    retransmitted: u64,
    unmeasured: u64,
    /// Transitions to ESTABLISHED.
    all: u64,
}

impl Handshakes {
    fn of(page: &Page, role: &str) -> Self {
        let from = match role {
            "client" => "syn_sent",
            _ => "syn_recv",
        };
        let of = |metric| page.sum(metric, &[("role", role)]);
        Self {
            timed: of("tcpstate_handshake_duration_seconds_count"),
            retransmitted: of("tcpstate_handshake_retransmitted_total"),
            unmeasured: of("tcpstate_handshake_unmeasured_total"),
            all: page.sum(
                "tcpstate_transitions_total",
                &[("from", from), ("to", "established")],
            ),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            timed: self.timed - before.timed,
            retransmitted: self.retransmitted - before.retransmitted,
            unmeasured: self.unmeasured - before.unmeasured,
            all: self.all - before.all,
        }
    }
}

/// Both roles, at a moment in which nothing is on the way.
fn both(look: &Look) -> [Handshakes; 2] {
    within(SHOWN, || {
        let page = look.page();
        let both = ["client", "server"].map(|role| Handshakes::of(&page, role));
        for found in both {
            let sum = found.timed + found.retransmitted + found.unmeasured;
            require(sum == found.all, format!("{found:?}"))?;
        }
        Ok(both)
    })
}

#[test]
fn each_handshake_is_counted_once_for_each_role() {
    let count = scaled(2_000);
    let look = Look::new();
    let namespace = Netns::new();
    let before = both(&look);
    namespace.enter(|| {
        for address in ["127.0.0.1:24091", "[::1]:24091"] {
            let listener = listen(address.parse().unwrap());
            for _ in 0..count / 2 {
                one_after_the_other(&listener);
            }
        }
    });
    let after = both(&look);
    for (after, before) in after.into_iter().zip(before) {
        let new = after.since(before);
        assert!(new.timed + new.unmeasured >= u64::from(count), "{new:?}");
        // Whole milliseconds mean a SYN cookie; a few do so by accident.
        assert!(new.timed >= u64::from(count) * 98 / 100, "{new:?}");
    }
}

fn one_after_the_other(listener: &TcpListener) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap();
    drop(client);
    drop(server);
}

#[test]
fn a_client_whose_first_syn_is_lost_is_one_with_a_retransmission_and_not_timed() {
    const COUNT: u64 = 2;

    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let look = Look::new();
    let [before, _] = both(&look);
    let to = SocketAddr::from((PEER_V4, 80));
    for number in 0..3_u16 {
        let from = SocketAddr::from((KERNEL_V4, 24_101 + number));
        let connecting = namespace.enter(|| begin(from, to));
        peer.accept_at(1, to, from);
        drop(connecting);
    }
    let [middle, _] = both(&look);
    assert!(middle.since(before).timed >= 3, "{before:?} {middle:?}");
    for number in 0..COUNT {
        let from = SocketAddr::from((KERNEL_V4, 24_111 + u16::try_from(number).unwrap()));
        let _connecting = namespace.enter(|| begin(from, to));
        // Of the one the first two are lost, which is one handshake all the same.
        peer.accept_at(if number == 0 { 3 } else { 2 }, to, from);
    }
    let [after, _] = both(&look);
    let new = after.since(middle);
    assert!(new.retransmitted >= COUNT, "{new:?}");
}

/// A client of the kernel whose connection is under way.
fn begin(from: SocketAddr, to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&to.into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS), "{begun}");
    socket
}

#[test]
fn a_server_whose_syn_ack_was_sent_again_is_one_with_a_retransmission_and_not_timed() {
    const PORT: u16 = 24_121;
    const COUNT: u16 = 3;

    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let look = Look::new();
    let kernel = SocketAddr::from((KERNEL_V4, PORT));
    let _listener = namespace.enter(|| listen(kernel));
    let [_, before] = both(&look);
    let half_open: Vec<_> = (0..COUNT)
        .map(|number| peer.half_open((PEER_V4, 4000 + number).into(), kernel))
        .collect();
    within(SHOWN, || {
        peer.collect(std::time::Duration::from_millis(100), |_| false);
        let resent = look.page().sum(RESENT, &[("port", &PORT.to_string())]);
        // After 3 s they are sent once more.
        require(resent >= COUNT.into(), format!("{resent} sent again"))
    });
    for connection in &half_open {
        peer.acknowledge(connection);
    }
    let [_, after] = both(&look);
    let new = after.since(before);
    assert!(new.retransmitted >= u64::from(COUNT), "{new:?}");
}

#[test]
fn handshakes_with_syn_cookies_are_not_timed() {
    const COUNT: u64 = 100;

    let namespace = Netns::new();
    // Always.
    set(&namespace, "ipv4/tcp_syncookies", 2);
    let look = Look::new();
    let [_, before] = both(&look);
    namespace.enter(|| {
        let listener = listen("127.0.0.1:24125".parse().unwrap());
        for _ in 0..COUNT {
            one_after_the_other(&listener);
        }
    });
    let [_, after] = both(&look);
    let new = after.since(before);
    assert!(new.unmeasured >= COUNT, "{new:?}");
}
