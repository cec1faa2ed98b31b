//! Peers that do not answer.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::{Cable, FAR, connect, ip, listener, look};
use crate::harness::{AGENT, Netns, require, run, watch, within};
use tcpstate_agent::{
    collect::{outgoing::ConnectionsReport, unanswered::UnansweredState},
    engine::Watch,
};

/// The sockets in each state whose peers are said not to answer, all by the far end.
fn named(watch: &Watch, namespace: &Netns) -> BTreeMap<UnansweredState, u64> {
    let groups = ConnectionsReport::new(&look(watch)).unanswered.into_iter();
    groups
        .filter(|group| group.namespace == namespace.inode())
        .map(|group| {
            assert_eq!(group.remote_address, Some(ip(FAR)), "{group:?}");
            assert!(group.silent_seconds >= 5.0, "{group:?}");
            (group.state, group.sockets)
        })
        .collect()
}

#[test]
fn syns_that_nobody_answers_are_named_with_who_sends_them() {
    let namespace = Netns::new();
    // What goes there comes nowhere.
    for words in [
        "link add hole type veth peer name bottom",
        "addr add 192.0.2.1/24 dev hole",
        "link set bottom up",
        "link set hole up",
        "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev hole nud permanent",
    ] {
        namespace.command("ip", &words.split(' ').collect::<Vec<_>>());
    }
    let connecting: Vec<Socket> = namespace.enter(|| {
        let address = SocketAddr::from(([192, 0, 2, 9], 443));
        (0..30)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                assert!(socket.connect(&address.into()).is_err());
                socket
            })
            .collect()
    });
    let watch = watch();
    within(Duration::from_mins(1), || {
        let groups = ConnectionsReport::new(&look(&watch)).unanswered.into_iter();
        let groups: Vec<_> = groups
            .filter(|group| group.namespace == namespace.inode())
            .collect();
        let [group] = &groups[..] else {
            return Err(format!("{groups:?}"));
        };
        let seconds = group.silent_seconds;
        require(
            (group.state, group.sockets) == (UnansweredState::SynSent, 30)
                && group.remote_port == 443
                && (5.0..90.0).contains(&seconds)
                && group.process.as_ref().map(|process| process.pid) == Some(std::process::id()),
            format!("{group:?}"),
        )
    });
    drop(connecting);
}

#[test]
fn peers_that_have_vanished_are_named_and_those_that_are_idle_are_not() {
    let cable = Cable::new();
    let (server, to) = listener(&cable.far, "10.7.0.2:7600");
    let pair = || {
        let client = connect(&cable.near, to).unwrap();
        (client, server.accept().unwrap().0)
    };
    let closing: Vec<_> = (0..17).map(|_| pair()).collect();
    let closed_by_peer: Vec<_> = (0..18).map(|_| pair()).collect();
    let mut sending: Vec<_> = (0..3).map(|_| pair()).collect();
    // Whether the peer of an idle connection is still there, nobody knows.
    let _idle: Vec<_> = (0..5).map(|_| pair()).collect();
    for (client, server) in &closed_by_peer {
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.peek(&mut [0]).unwrap(), 0);
    }
    let (local, here) = listener(&cable.near, "127.0.0.1:7601");
    let _healthy: Vec<_> = (0..5)
        .map(|_| {
            let mut client = connect(&cable.near, here).unwrap();
            client.write_all(b"hello").unwrap();
            (client, local.accept().unwrap())
        })
        .collect();

    let watch = watch();
    assert_eq!(named(&watch, &cable.near), BTreeMap::new());
    cable.cut();
    for (client, _) in &mut sending {
        client.write_all(b"is anybody there?").unwrap();
    }
    let mut servers = Vec::new();
    for (client, server) in closing.into_iter().chain(closed_by_peer) {
        drop(client);
        servers.push(server);
    }
    let expected = BTreeMap::from([
        (UnansweredState::Established, 3),
        (UnansweredState::FinWait1, 17),
        (UnansweredState::LastAck, 18),
    ]);
    within(Duration::from_mins(1), || {
        let found = named(&watch, &cable.near);
        require(found == expected, format!("{found:?}"))
    });
    drop(watch);

    let nobody = ["--interval", "0", "--control.socket", "/nonexistent/socket"];
    let arguments: Vec<&str> = ["diagnose"].into_iter().chain(nobody).collect();
    let text = String::from_utf8(run(AGENT, &arguments).stdout).unwrap();
    for said in [
        "NO ANSWER: ",
        "10.7.0.2:7600: 3 sockets in ESTABLISHED",
        "10.7.0.2:7600: 17 sockets in FIN_WAIT1",
        "10.7.0.2:7600: 18 sockets in LAST_ACK",
        "TCP_USER_TIMEOUT",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
}
