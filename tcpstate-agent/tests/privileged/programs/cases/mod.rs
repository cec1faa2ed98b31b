//! What `diagnose` says, beside a running agent, of programs as people report them: the verdict that a
//! specialist would give, who is to blame for it, and a command that shows the sockets.

mod accepting;
mod connections;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::{PYTHON_PACKAGE, Program, accept, connect, free_port, listen, python};
use crate::{
    agent::Agent,
    control::ControlSocket,
    harness::{Netns, is_excused, require, run, within},
};

/// Within what a group is told as it is: two looks at the owners, and what a namespace may take to be
/// found.
const TOLD: Duration = Duration::from_mins(1);

/// A running agent, and a namespace in which programs misbehave.
struct Case {
    namespace: Netns,
    socket: ControlSocket,
    agent: Agent,
}

impl Case {
    fn new(name: &str) -> Self {
        let socket = ControlSocket::new(name);
        let mut flags = socket.flags().to_vec();
        flags.extend(["--snapshot.cpu-percent", "100"]);
        Self {
            namespace: Netns::new(),
            agent: Agent::start_with(&flags),
            socket,
        }
    }

    /// What is said of a port, with so many seconds between two looks.
    fn diagnose(&self, port: u16, seconds: u32) -> Value {
        let (port, seconds) = (port.to_string(), seconds.to_string());
        let flags = ["--port", &port, "--interval", &seconds];
        let mut told = self.socket.ask("diagnose", &flags);
        let inode = self.namespace.inode();
        for kind in ["groups", "listeners", "mptcp", "destinations", "unanswered"] {
            let all = told[kind].as_array_mut().unwrap();
            all.retain(|one| one["namespace"] == inode);
        }
        told
    }

    /// Waits until these groups are told of a port and no others, the largest first, and no forecast
    /// is made. Looks whether the command of each shows as many sockets.
    #[track_caller]
    fn is_told(&self, port: u16, expected: &[Value]) -> Value {
        let told = within(TOLD, || {
            let told = self.diagnose(port, 0);
            let groups = told["groups"].as_array().unwrap();
            let short: Vec<Value> = groups.iter().map(short).collect();
            require(short == expected, format!("{told:#}"))?;
            Ok(told)
        });
        let groups = told["groups"].as_array().unwrap();
        let sockets: u64 = groups
            .iter()
            .map(|group| group["sockets"].as_u64().unwrap())
            .sum();
        for group in groups {
            assert!(group["growth_per_second"].is_null(), "{group:#}");
            assert_eq!(shown_by(&group["command"]), sockets, "{group:#}");
        }
        told
    }
}

/// What a person reads first.
fn short(group: &Value) -> Value {
    json!([
        group["process"]["name"],
        group["role"],
        group["port"],
        group["cause"],
        group["verdict"],
        group["sockets"],
        group["facts"]["is_one_of"],
    ])
}

/// What [`short`] makes of a group of which it is known who should act.
fn one_group(
    process: &str,
    role: &str,
    port: u16,
    cause: &str,
    verdict: &str,
    sockets: u32,
) -> Value {
    json!([process, role, port, cause, verdict, sockets, false])
}

/// How many sockets a command shows that is pasted into a shell of root.
#[track_caller]
fn shown_by(command: &Value) -> u64 {
    let command = command.as_str().unwrap();
    let as_root = command.strip_prefix("sudo ").unwrap();
    let output = run("sh", &["-c", as_root]);
    assert!(output.status.success(), "{command}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // The first line says what is in which column.
    text.lines().skip(1).count().try_into().unwrap()
}

/// Clients that come one after another and say something. They go when they are dropped.
fn visit(namespace: &Netns, port: u16, clients: u32) -> Vec<TcpStream> {
    let visitor = |_| {
        let mut peer = connect(namespace, port);
        peer.write_all(b"hi").unwrap();
        peer
    };
    (0..clients).map(visitor).collect()
}

/// Waits until a program has said so often that it has read: a FIN that comes before is read with what
/// was sent.
fn have_read(program: &mut Program, times: usize) {
    for _ in 0..times {
        assert_eq!(program.line(), "read\n");
    }
}

/// As Go does it: what comes is told once, a short answer is read at once and its end is not, because
/// the body was forgotten.
#[test]
fn answers_forgotten_in_one_burst_are_no_pool() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("forgotten");
    let upstream = listen(&case.namespace);
    let port = upstream.local_addr().unwrap().port();
    let script = format!(
        "import select, socket, sys\n\
         open('/proc/self/comm', 'w').write('forgetful')\n\
         epoll = select.epoll(); asked = []\n\
         for _ in range(10):\n\
         \x20   one = socket.create_connection(('127.0.0.1', {port})); asked.append(one)\n\
         \x20   epoll.register(one, select.EPOLLIN | select.EPOLLET); one.sendall(b'GET /')\n\
         for one in asked: one.recv(4096)\n\
         print('read', flush=True); sys.stdin.read()\n"
    );
    let mut client = python(&case.namespace, &script);
    let mut connections = accept(&upstream, 10);
    for connection in &mut connections {
        connection.read_exact(&mut [0; 5]).unwrap();
        connection.write_all(&[b'x'; 3_000]).unwrap();
    }
    assert_eq!(client.line(), "read\n");
    drop(connections);
    case.is_told(
        port,
        &[one_group(
            "forgetful",
            "client",
            port,
            "fin_unread",
            "unread_response",
            10,
        )],
    );
}

/// A pool after a quiet hour: all were closed at once, which is no rate.
#[test]
fn a_burst_is_no_growth() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("burst");
    let upstream = listen(&case.namespace);
    let port = upstream.local_addr().unwrap().port();
    let script = format!(
        "import socket, sys\n\
         pool = [socket.create_connection(('127.0.0.1', {port})) for _ in range(20)]\n\
         print('made', flush=True); sys.stdin.read()\n"
    );
    let mut client = python(&case.namespace, &script);
    assert_eq!(client.line(), "made\n");
    drop(accept(&upstream, 20));
    // From the first look on, when the namespace may not have been found yet.
    for _ in 0..4 {
        let told = case.diagnose(port, 1);
        for group in told["groups"].as_array().unwrap() {
            let growth = group["growth_per_second"].as_f64().unwrap_or(0.0);
            assert!(growth <= 0.0, "{told:#}");
            assert!(group["fds_exhausted_in_seconds"].is_null(), "{told:#}");
        }
    }
    case.is_told(
        port,
        &[one_group(
            "python3",
            "client",
            port,
            "fin_unread",
            "idle_pool",
            20,
        )],
    );
}

/// As PostgreSQL does it.
#[test]
fn processes_of_one_connection_each_are_one_group_that_is_at_work() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("alike");
    let port = free_port(&case.namespace);
    let script = format!(
        "import os, socket, sys\n\
         listener = socket.create_server(('127.0.0.1', {port})); children = []\n\
         for _ in range(5):\n\
         \x20   connection, _ = listener.accept(); pid = os.fork()\n\
         \x20   if pid == 0: listener.close(); connection.recv(10), os.write(1, b'read\\n'), sys.stdin.read(), os._exit(0)\n\
         \x20   children.append(pid); connection.close()\n\
         sys.stdin.read()\n"
    );
    let mut server = python(&case.namespace, &script);
    let visitors = visit(&case.namespace, port, 5);
    have_read(&mut server, 5);
    drop(visitors);
    let told = case.is_told(
        port,
        &[one_group(
            "python3",
            "server",
            port,
            "fin_unread",
            "in_service",
            5,
        )],
    );
    assert_eq!(told["groups"][0]["alike"].as_array().unwrap().len(), 4);
}

/// Downloads by clients that say that they send no more, and stop reading.
#[test]
fn a_thread_that_is_blocked_in_send_is_told_with_what_is_not_acknowledged() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("sending");
    let port = free_port(&case.namespace);
    let script = format!(
        "import socket, threading\n\
         listener = socket.create_server(('127.0.0.1', {port}))\n\
         def serve(connection): connection.recv(10), connection.sendall(bytes(64 << 20))\n\
         while True:\n\
         \x20   connection, _ = listener.accept()\n\
         \x20   threading.Thread(target=serve, args=(connection,), daemon=True).start()\n"
    );
    let _server = python(&case.namespace, &script);
    let peers: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut peer = connect(&case.namespace, port);
            peer.write_all(b"GET").unwrap();
            peer.read_exact(&mut [0; 100]).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        })
        .collect();
    let told = case.is_told(
        port,
        &[one_group(
            "python3",
            "server",
            port,
            "fin_unread",
            "send_blocked",
            4,
        )],
    );
    let group = &told["groups"][0];
    assert!(
        group["unacknowledged_bytes"].as_u64() > Some(100_000),
        "{group:#}"
    );
    let wait = group["threads_wait"].as_str().unwrap();
    assert!(wait.contains("send"), "{wait}");
    drop(peers);
}

/// Its ports are some that `connect()` may choose too.
#[test]
fn a_server_that_has_stopped_listening_is_a_server_on_any_port() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let server = |namespace: &Netns, port: u16, clients: u32| {
        let script = format!(
            "import socket, sys\n\
             listener = socket.create_server(('127.0.0.1', {port})); kept = []\n\
             for _ in range({clients}): kept.append(listener.accept()[0])\n\
             print('accepted', flush=True); sys.stdin.readline(); listener.close()\n\
             print('closed', flush=True); sys.stdin.read()\n"
        );
        python(namespace, &script)
    };
    let close = |server: &mut Program| {
        server.stdin.write_all(b"\n").unwrap();
        assert_eq!(server.line(), "closed\n");
    };
    let draining = |port: u16, sockets: u32| {
        [one_group(
            "python3",
            "server",
            port,
            "fin_unread",
            "draining",
            sockets,
        )]
    };

    // One closed before there was an agent: many came to one port.
    let namespace = Netns::new();
    let before = free_port(&namespace);
    let mut earlier = server(&namespace, before, 6);
    let peers: Vec<TcpStream> = (0..6).map(|_| connect(&namespace, before)).collect();
    assert_eq!(earlier.line(), "accepted\n");
    close(&mut earlier);
    let case = Case {
        namespace,
        ..Case::new("drain")
    };
    drop(peers);
    case.is_told(before, &draining(before, 6));

    // The agent has seen the other one listen. It has one connection only.
    let seen = free_port(&case.namespace);
    let mut later = server(&case.namespace, seen, 1);
    let peer = connect(&case.namespace, seen);
    assert_eq!(later.line(), "accepted\n");
    within(TOLD, || {
        let page = case.agent.page();
        let labels = [("port", &*seen.to_string())];
        let listens = !page
            .samples("tcpstate_listener_accept_queue", &labels)
            .is_empty();
        require(listens, "the listener is not shown")?;
        // A look has come to its end since.
        case.diagnose(seen, 0);
        Ok(())
    });
    close(&mut later);
    drop(peer);
    case.is_told(seen, &draining(seen, 1));
}

/// As haproxy, dockerd's proxy or a CNI helper do: it lives elsewhere than its sockets. And of one whose
/// first thread has ended, only another one leads into its namespace.
#[test]
fn a_command_finds_sockets_wherever_their_process_lives() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let mut case = Case::new("elsewhere");
    let elsewhere = Netns::new();
    let port = free_port(&case.namespace);
    let leaks = "\
        for _ in range(3): connection, _ = listener.accept(); connection.recv(10), connection.recv(10), kept.append(connection)\n";
    let script = format!(
        "import ctypes, os, socket, sys\n\
         libc = ctypes.CDLL(None); home = os.open('/proc/self/ns/net', 0)\n\
         libc.setns(os.open('{}', 0), 0)\n\
         listener = socket.create_server(('127.0.0.1', {port})); libc.setns(home, 0); kept = []\n\
         {leaks}print('read', flush=True); sys.stdin.read()\n",
        case.namespace.way_in()
    );
    let mut guest = python(&elsewhere, &script);
    drop(visit(&case.namespace, port, 3));
    have_read(&mut guest, 1);
    let leak = |port: u16| [one_group("python3", "server", port, "eof_read", "leak", 3)];
    case.is_told(port, &leak(port));

    // 60 is exit(2) of one thread on x86-64, and 93 elsewhere.
    let port = free_port(&case.namespace);
    let script = format!(
        "import ctypes, platform, socket, sys, threading\n\
         listener = socket.create_server(('127.0.0.1', {port})); kept = []\n\
         def work():\n\
         \x20   for _ in range(3):\n\
         \x20       connection, _ = listener.accept()\n\
         \x20       connection.recv(10), connection.recv(10), kept.append(connection)\n\
         \x20   print('read', flush=True); sys.stdin.read()\n\
         threading.Thread(target=work).start()\n\
         ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)\n"
    );
    let mut headless = python(&case.namespace, &script);
    drop(visit(&case.namespace, port, 3));
    have_read(&mut headless, 1);
    case.namespace.release_holder();
    drop(guest);
    let told = case.is_told(port, &leak(port));
    let process = &told["groups"][0]["process"];
    assert!(!process["executable"].is_null(), "{process:#}");
}
