//! Connections of MPTCP: the process reads, and leaks, what is above their subflows.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::{ROUNDS, Where, assert_blamed};
use crate::{
    actor::{Actor, DIAL, Duty, LEAK, read_for_leaker},
    harness::Netns,
};

fn socket() -> Socket {
    let mptcp = Some(Protocol::from(libc::IPPROTO_MPTCP));
    Socket::new(Domain::IPV4, Type::STREAM, mptcp).unwrap()
}

fn connect(port: u16) -> TcpStream {
    let socket = socket();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// Listens for MPTCP, on a port that the kernel chooses.
pub(crate) fn listen() -> TcpListener {
    let socket = socket();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(64).unwrap();
    socket.into()
}

/// What the actor does where it is told to open a connection: to the port that comes in.
#[inline(never)]
pub(crate) fn leak_dialled(asked: &mut TcpStream) {
    let mut port = [0; 2];
    asked.read_exact(&mut port).unwrap();
    let mut connection = connect(u16::from_be_bytes(port));
    let read = read_for_leaker(&mut connection);
    std::mem::forget(connection);
    std::hint::black_box(read);
}

/// Sends a command and what belongs to it, and closes for writing.
fn ask(mut peer: TcpStream, command: &[u8]) -> TcpStream {
    peer.write_all(command).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    peer
}

/// Has the actor open a connection to `backend`, which closes it.
fn have_dialled(port: u16, backend: &TcpListener) -> [TcpStream; 2] {
    let to = backend.local_addr().unwrap().port().to_be_bytes();
    let asking = ask(connect(port), &[&[DIAL], &to[..]].concat());
    let (asked, _) = backend.accept().unwrap();
    [asking, ask(asked, b"an answer")]
}

/// The sockets in CLOSE_WAIT that have such a function in a place.
fn sockets_by(report: &Value, place: &str, function: &str) -> u64 {
    let groups = report["groups"].as_array().unwrap();
    let of_it = groups.iter().filter(|group| {
        let functions = super::functions(group, place);
        functions
            .iter()
            .any(|found| super::is_named(found, function))
    });
    of_it.map(|group| group["sockets"].as_u64().unwrap()).sum()
}

#[test]
fn mptcp_is_blamed_where_it_was_opened_accepted_and_read_on_every_kernel() {
    let namespace = Netns::new();
    let actor = Actor::start(&namespace, "leaker", Duty::LeakMptcp);
    let pid = actor.pid().to_string();
    let watching = Where::start(&["--pid", &pid, "--accept"]);
    let peers: Vec<TcpStream> = namespace.enter(|| {
        // Of a thread that waits in accept() already, the end of that call may not be seen.
        let mut peers = vec![ask(connect(actor.port), b"O")];
        let backends = [
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            listen(),
        ];
        for _ in 0..ROUNDS {
            peers.push(ask(connect(actor.port), &[LEAK]));
            peers.push(ask(connect(actor.port), b"O"));
            for backend in &backends {
                peers.extend(have_dialled(actor.port, backend));
            }
        }
        peers
    });
    thread::sleep(Duration::from_millis(1_500));
    let report = watching.finish();
    drop(peers);
    // Each once, and not its subflow too.
    let connects = &report["watch"]["events"]["connects"];
    assert_eq!(connects.as_u64(), Some(2 * ROUNDS), "{report:#}");
    if report["watch"]["reads_by"] == "tcp_recvmsg" {
        // Reads of MPTCP pass that function by.
        assert_eq!(sockets_by(&report, "last_read", "read_for_leaker"), 0);
        return;
    }
    let reads = report["watch"]["mptcp_reads"].as_u64();
    assert!(reads >= Some(4 * ROUNDS), "{report:#}");
    // Where the peer speaks plain TCP, the connection is in CLOSE_WAIT with its only subflow.
    assert_eq!(
        sockets_by(&report, "opened", "leak_dialled"),
        2 * ROUNDS,
        "{report:#}"
    );
    let accepts = if cfg!(target_env = "musl") {
        "leak::{{closure}}"
    } else {
        "accept_for_leaker"
    };
    assert_blamed(&report, "accepted", accepts, "close_after_reading", ROUNDS);
    assert_blamed(
        &report,
        "last_read",
        "leak_after_reading",
        "close_after_reading",
        ROUNDS,
    );
    assert_eq!(
        sockets_by(&report, "last_read", "leak_dialled"),
        2 * ROUNDS,
        "{report:#}"
    );
}
