//! Where outgoing connections go, the ports they take, what is left of those that were closed,
//! and peers that do not answer.

mod left_behind;
mod many;
mod ports;
mod silent;
mod time_wait;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
};

use tcpstate_agent::{
    collect::outgoing::NamespaceOutgoing,
    engine::{Connections, Watch},
};

use crate::{actor::listen_with, harness::Netns};

/// Two namespaces with a cable between them.
struct Cable {
    near: Netns,
    far: Netns,
}

const NEAR: &str = "10.7.0.1";
const FAR: &str = "10.7.0.2";
const FAR6: &str = "fd07::2";

impl Cable {
    fn new() -> Self {
        let (near, far) = (Netns::new(), Netns::new());
        let holder = far.holder_pid().to_string();
        let pair = [
            "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", &holder,
        ];
        near.command("ip", &pair);
        for (namespace, device, v4, v6) in [
            (&near, "near", "10.7.0.1/24", "fd07::1/64"),
            (&far, "far", "10.7.0.2/24", "fd07::2/64"),
        ] {
            namespace.command("ip", &["address", "add", v4, "dev", device]);
            namespace.command("ip", &["address", "add", v6, "dev", device, "nodad"]);
            namespace.command("ip", &["link", "set", device, "up"]);
        }
        Self { near, far }
    }

    /// From now on the far end gets nothing and says nothing, and nobody is told.
    fn cut(&self) {
        self.far.command("ip", &["link", "set", "far", "down"]);
    }
}

/// Sets something of `net.ipv4` in a namespace.
fn set(namespace: &Netns, name: &str, value: &str) {
    namespace.enter(|| fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap());
}

/// A listener in a namespace, with room for all that come.
fn listener(namespace: &Netns, address: &str) -> (TcpListener, SocketAddr) {
    set_somaxconn(namespace);
    let listener = namespace.enter(|| listen_with(address.parse().unwrap(), 30_000));
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn set_somaxconn(namespace: &Netns) {
    namespace.enter(|| fs::write("/proc/sys/net/core/somaxconn", "30000").unwrap());
}

fn connect(namespace: &Netns, to: SocketAddr) -> std::io::Result<TcpStream> {
    namespace.enter(|| TcpStream::connect(to))
}

/// Closes both ends, the client first: it goes to TIME_WAIT.
fn close_from_client(mut client: TcpStream, server: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    // It need not have come when it is read.
    assert_eq!((&server).read(&mut [0]).unwrap(), 0);
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// What a look finds now.
fn look(watch: &Watch) -> Connections {
    watch.connections().expect("connections cannot be told")
}

/// What a look finds now in one namespace.
fn look_at(watch: &Watch, namespace: &Netns) -> NamespaceOutgoing {
    let inode = namespace.inode();
    look(watch)
        .outgoing
        .into_iter()
        .find(|(found, _)| *found == inode)
        .map(|(_, outgoing)| outgoing)
        .unwrap_or_default()
}

/// Sockets in TIME_WAIT by destination, as `ss` shows them, but for those with this local port.
fn ss_time_wait(namespace: &Netns, listens: u16) -> BTreeMap<SocketAddr, u64> {
    let text = namespace.command("ss", &["-tanH", "state", "time-wait"]);
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [.., local, remote] = words[..] else {
            panic!("{line:?}");
        };
        let (local, remote): (SocketAddr, SocketAddr) =
            (local.parse().unwrap(), remote.parse().unwrap());
        if local.port() != listens {
            let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
            *found.entry(remote).or_default() += 1;
        }
    }
    found
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
