//! Misuse as people report it, by hand: what is told of it is the verdict that a specialist would give.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use tcpstate_agent::{
    collect::close_wait::{Cause, Role, Verdict},
    engine::OwnedGroup,
};

use super::{PYTHON_PACKAGE, accept, connect, free_port, listen, python};
use crate::{
    close_wait::{Look, SHOWN},
    harness::{Netns, is_excused, require, within},
};

/// What there is to say of a group, without numbers that differ from run to run.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    process: String,
    role: Role,
    port: u16,
    cause: Cause,
    verdict: Verdict,
    sockets: u64,
}

impl Told {
    fn of(group: &OwnedGroup) -> Self {
        let owner = group.owner.as_ref();
        Self {
            process: owner.map_or_else(String::new, |owner| owner.name.clone()),
            role: group.service.role,
            port: group.service.port,
            cause: group.cause,
            verdict: group.verdict,
            sockets: group.tally.sockets,
        }
    }
}

/// Waits until these groups of a namespace are told, and no others.
fn are_told(look: &Look, namespace: &Netns, expected: &[Told]) {
    within(SHOWN, || {
        let mut told: Vec<Told> = look.groups(namespace).iter().map(Told::of).collect();
        told.sort();
        require(told == expected, format!("{told:?}"))
    });
}

fn server(port: u16, cause: Cause, verdict: Verdict, sockets: u64) -> Told {
    Told {
        process: "python3".to_owned(),
        role: Role::Server,
        port,
        cause,
        verdict,
        sockets,
    }
}

/// Clients that have said something, and go when they are dropped.
fn visit(namespace: &Netns, port: u16, clients: u32) -> Vec<TcpStream> {
    (0..clients)
        .map(|_| {
            let mut peer = connect(namespace, port);
            peer.write_all(b"hi").unwrap();
            peer
        })
        .collect()
}

/// As TLS does it: the server says goodbye with its FIN, and nobody is there to read it.
#[test]
fn an_idle_pool_with_a_goodbye_in_it_is_a_pool_and_no_stuck_consumer() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let upstream = listen(&namespace);
    let port = upstream.local_addr().unwrap().port();
    let script = format!(
        "import socket, sys\n\
         pool = [socket.create_connection(('127.0.0.1', {port})) for _ in range(15)]\n\
         sys.stdin.read()\n"
    );
    let _client = python(&namespace, &script);
    let mut connections: Vec<TcpStream> = accept(&upstream, 15);
    std::thread::sleep(Duration::from_secs(1));
    for connection in &mut connections {
        connection.write_all(&[0x15; 31]).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
    }
    let pool = Told {
        role: Role::Client,
        ..server(port, Cause::DataUnread, Verdict::IdlePool, 15)
    };
    are_told(&look, &namespace, &[pool]);
}

#[test]
fn a_response_that_nobody_reads_is_no_pool() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let upstream = listen(&namespace);
    let port = upstream.local_addr().unwrap().port();
    let script = format!(
        "import socket, sys\n\
         asked = [socket.create_connection(('127.0.0.1', {port})) for _ in range(6)]\n\
         for one in asked: one.sendall(b'GET /'), one.recv(10)\n\
         sys.stdin.read()\n"
    );
    let _client = python(&namespace, &script);
    for connection in &mut accept(&upstream, 6) {
        connection.read_exact(&mut [0; 5]).unwrap();
        connection.write_all(&[b'x'; 3_000]).unwrap();
    }
    let unread = Told {
        role: Role::Client,
        ..server(port, Cause::DataUnread, Verdict::UnreadResponse, 6)
    };
    are_told(&look, &namespace, &[unread]);
}

#[test]
fn a_server_that_has_stopped_listening_drains_and_is_found_by_its_port() {
    // Not one that connect() would choose.
    const PORT: u16 = 8_021;

    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let script = format!(
        "import socket, sys\n\
         listener = socket.create_server(('127.0.0.1', {PORT})); kept = []\n\
         for _ in range(12):\n\
         \x20   connection, _ = listener.accept(); connection.recv(10); kept.append(connection)\n\
         listener.close(); print('read', flush=True); sys.stdin.read()\n"
    );
    let mut server_process = python(&namespace, &script);
    let peers = visit(&namespace, PORT, 12);
    assert_eq!(server_process.line(), "read\n");
    drop(peers);
    let drains = server(PORT, Cause::FinUnread, Verdict::Draining, 12);
    are_told(&look, &namespace, &[drains]);
}

#[test]
fn a_child_that_has_sockets_of_its_server_has_inherited_them() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let port = free_port(&namespace);
    let script = format!(
        "import os, socket, subprocess, sys\n\
         listener = socket.create_server(('127.0.0.1', {port}))\n\
         connection, _ = listener.accept()\n\
         os.set_inheritable(connection.fileno(), True); connection.recv(10)\n\
         child = subprocess.Popen(['cat'], close_fds=False); connection.close()\n\
         print('read', flush=True); sys.stdin.read()\n"
    );
    // Both end with their stdin.
    let mut parent = python(&namespace, &script);
    let peers = visit(&namespace, port, 1);
    assert_eq!(parent.line(), "read\n");
    drop(peers);
    let inherited = Told {
        process: "cat".to_owned(),
        ..server(port, Cause::FinUnread, Verdict::Inherited, 1)
    };
    are_told(&look, &namespace, &[inherited]);
}

#[test]
fn where_descriptors_are_used_up_it_is_that_and_the_leak_that_are_told() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let port = free_port(&namespace);
    let script = format!(
        "import asyncio, os, resource, sys\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n\
         kept = []\n\
         async def serve(reader, writer): kept.append(writer); await reader.read()\n\
         async def main():\n\
         \x20   server = await asyncio.start_server(serve, '127.0.0.1', {port}, backlog=64)\n\
         \x20   async with server: await server.serve_forever()\n\
         asyncio.run(main())\n"
    );
    let _server = python(&namespace, &script);
    drop(visit(&namespace, port, 60));
    within(SHOWN, || {
        let told: Vec<Told> = look.groups(&namespace).iter().map(Told::of).collect();
        let verdict_of = |cause| {
            let found = told.iter().find(|told| told.cause == cause);
            found.map(|told| told.verdict)
        };
        let sockets: u64 = told.iter().map(|told| told.sockets).sum();
        require(
            verdict_of(Cause::EofRead) == Some(Verdict::Leak)
                && verdict_of(Cause::Unaccepted) == Some(Verdict::DescriptorsExhausted)
                && sockets == 60,
            format!("{told:?}"),
        )
    });
}

/// As systemd does it, and every server with a master: several hold the listening socket.
#[test]
fn of_those_that_hold_a_listening_socket_whoever_has_connections_accepts() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let port = free_port(&namespace);
    let script = format!(
        "import os, socket, sys\n\
         listener = socket.create_server(('127.0.0.1', {port}), backlog=32)\n\
         if os.fork() == 0:\n\
         \x20   open('/proc/self/comm', 'w').write('my-service')\n\
         \x20   for number in range(4):\n\
         \x20       connection, _ = listener.accept(); connection.recv(10)\n\
         \x20       if number < 3: connection.close()\n\
         \x20       else: kept = connection\n\
         sys.stdin.read()\n"
    );
    let _activator = python(&namespace, &script);
    drop(visit(&namespace, port, 3));
    // Accepted, and still there.
    let _kept = visit(&namespace, port, 1);
    drop(visit(&namespace, port, 7));
    let stuck = Told {
        process: "my-service".to_owned(),
        ..server(port, Cause::Unaccepted, Verdict::BlockedAccept, 7)
    };
    are_told(&look, &namespace, &[stuck]);
    let groups = look.groups(&namespace);
    assert!(
        !groups[0].is_one_of && groups[0].co_owners.is_empty(),
        "{groups:?}"
    );
}
