//! Connections that are in no table, that nobody answers, or that take all ports.

use std::net::{Shutdown, SocketAddr};

use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Case, TOLD, shown_by};
use crate::{
    harness::{is_excused, require, within},
    programs::{PYTHON_PACKAGE, accept, free_port, listen, python},
};

/// To TCP they are established.
#[test]
fn mptcp_connections_that_their_peers_have_closed_are_told() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("mptcp");
    let port = free_port(&case.namespace);
    let script = format!(
        "import socket, sys\n\
         listener = socket.socket(proto=socket.IPPROTO_MPTCP); kept = []\n\
         listener.bind(('127.0.0.1', {port})); listener.listen(8)\n\
         print('listens', flush=True)\n\
         for _ in range(3):\n\
         \x20   connection, _ = listener.accept(); kept.append(connection)\n\
         \x20   while connection.recv(10): pass\n\
         print('read', flush=True); sys.stdin.read()\n"
    );
    let mut server = python(&case.namespace, &script);
    assert_eq!(server.line(), "listens\n");
    let peers: Vec<Socket> = (0..3)
        .map(|_| {
            let peer = case.namespace.enter(|| {
                let peer = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).unwrap();
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                peer.connect(&address.into()).unwrap();
                peer
            });
            peer.send(b"hi").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        })
        .collect();
    assert_eq!(server.line(), "read\n");
    let told = within(TOLD, || {
        let told = case.diagnose(port, 0);
        require(told["mptcp"][0]["connections"] == 3, format!("{told:#}"))?;
        Ok(told)
    });
    let [group] = &told["mptcp"].as_array().unwrap()[..] else {
        panic!("{told:#}");
    };
    assert_eq!(group["process"]["pid"], server.pid(), "{group:#}");
    assert_eq!(group["role"], "server", "{group:#}");
    assert_eq!(group["port"], port, "{group:#}");
    assert_eq!(told["groups"], json!([]), "{told:#}");
    assert_eq!(shown_by(&group["command"]), 3, "{group:#}");
    drop(peers);
}

#[test]
fn connections_that_nobody_answers_are_told_with_who_makes_them() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("connecting");
    // What goes there comes nowhere.
    for words in [
        "link add hole type veth peer name bottom",
        "addr add 192.0.2.1/24 dev hole",
        "link set bottom up",
        "link set hole up",
        "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev hole nud permanent",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        case.namespace.command("ip", &words);
    }
    let script = "import socket, sys\n\
        open('/proc/self/comm', 'w').write('caller'); calls = []\n\
        for _ in range(30):\n\
        \x20   call = socket.socket(); call.setblocking(False); calls.append(call)\n\
        \x20   call.connect_ex(('192.0.2.9', 443))\n\
        sys.stdin.read()\n";
    let _caller = python(&case.namespace, script);
    let told = within(TOLD, || {
        let told = case.diagnose(443, 0);
        require(told["unanswered"][0]["sockets"] == 30, format!("{told:#}"))?;
        Ok(told)
    });
    let group = &told["unanswered"][0];
    assert_eq!(group["state"], "syn_sent", "{group:#}");
    assert_eq!(group["verdict"], "connecting", "{group:#}");
    assert_eq!(group["process"]["name"], "caller", "{group:#}");
    assert_eq!(shown_by(&group["command"]), 30, "{group:#}");
}

#[test]
fn where_ports_run_out_whoever_holds_them_is_told() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("ports");
    let server = listen(&case.namespace);
    let port = server.local_addr().unwrap().port();
    case.namespace.enter(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 20049").unwrap();
    });
    let script = format!(
        "import socket, sys\n\
         open('/proc/self/comm', 'w').write('holder')\n\
         held = [socket.create_connection(('127.0.0.1', {port})) for _ in range(45)]\n\
         print('made', flush=True); sys.stdin.read()\n"
    );
    let mut holder = python(&case.namespace, &script);
    let _accepted = accept(&server, 45);
    assert_eq!(holder.line(), "made\n");
    let told = within(TOLD, || {
        let told = case.diagnose(port, 0);
        require(told["destinations"][0]["held"] == 45, format!("{told:#}"))?;
        Ok(told)
    });
    let destination = &told["destinations"][0];
    assert_eq!(destination["ports"], 50, "{destination:#}");
    assert_eq!(destination["process"]["name"], "holder", "{destination:#}");
    assert_eq!(shown_by(&destination["command"]), 45, "{destination:#}");
}
