//! Programs that people run, as they keep sockets in CLOSE_WAIT, or do not.

mod cases;
mod misuse;
mod nginx;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use tcpstate_agent::collect::close_wait::{Cause, Role, Verdict};

use crate::{
    close_wait::{Look, SHOWN, SOCKETS, Shown, VERDICT_SOCKETS, ss},
    harness::{Netns, Running, is_excused, require, within},
};

/// The one that Debian's packages are for.
const PYTHON: &str = "/usr/bin/python3";
/// What those are excused by that need Python.
const PYTHON_PACKAGE: &str = "python3-requests";

/// How long programs have to start.
const STARTED: Duration = Duration::from_secs(90);

/// A program in a namespace.
pub(crate) struct Program {
    process: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start(namespace: &Netns, words: &[&str]) -> Self {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", namespace.way_in()))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Running::start(&mut command);
        Self {
            stdin: process.take_stdin(),
            stdout: BufReader::new(process.take_stdout()),
            process,
        }
    }

    /// The next line that it says.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid().as_raw_nonzero().get().cast_unsigned()
    }
}

/// Who is to blame, and for what.
struct Blame {
    pid: u32,
    role: Role,
    port: u16,
    cause: Cause,
    verdict: Verdict,
    sockets: u64,
}

impl Blame {
    /// Waits until `ss` and the agent agree on it; nobody else in the namespace is to blame.
    /// Returns what the process is called.
    fn is_told(&self, look: &Look, namespace: &Netns) -> String {
        within(SHOWN, || {
            let truth = ss(namespace);
            let holds = |(_, pid): &(String, u32)| *pid == self.pid;
            require(
                truth.len() as u64 == self.sockets
                    && truth.iter().all(|socket| {
                        socket.cause() == self.cause && socket.processes.iter().any(holds)
                    }),
                format!("ss shows {truth:?}"),
            )?;
            let unread: u64 = truth.iter().map(Shown::unread_bytes).sum();
            let groups = look.groups(namespace);
            let [group] = &groups[..] else {
                return Err(format!("{groups:?}"));
            };
            let owner = group.owner.as_ref().ok_or("no owner")?;
            let service = group.service;
            require(
                owner.id.tgid == self.pid
                    && (service.role, service.port) == (self.role, self.port)
                    && (group.cause, group.tally.sockets) == (self.cause, self.sockets)
                    && group.verdict == self.verdict
                    && group.tally.unread_bytes == unread,
                format!("{group:?}"),
            )?;
            let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap();
            let name = name.trim_end_matches('\n').to_owned();
            let labels = [
                ("process", &*name),
                ("role", self.role.name()),
                ("port", &self.port.to_string()),
                ("cause", self.cause.name()),
            ];
            let page = look.page();
            let shown = page.sum(SOCKETS, &labels);
            require(shown == self.sockets, format!("{shown} on the page"))?;
            let [process, role, port, _] = labels;
            let verdict = ("verdict", self.verdict.name());
            let shown = page.sum(VERDICT_SOCKETS, &[process, role, port, verdict]);
            require(shown == self.sockets, format!("{shown} of that verdict"))?;
            Ok(name)
        })
    }
}

/// A free port of a namespace in which nobody else opens any.
fn free_port(namespace: &Netns) -> u16 {
    let listener = listen(namespace);
    listener.local_addr().unwrap().port()
}

fn listen(namespace: &Netns) -> TcpListener {
    namespace.enter(|| TcpListener::bind("127.0.0.1:0").unwrap())
}

/// Connects to a program that is still about to listen.
fn connect(namespace: &Netns, port: u16) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    within(STARTED, || {
        namespace
            .enter(|| TcpStream::connect(address))
            .map_err(|error| error.to_string())
    })
}

/// Python with a script.
fn python(namespace: &Netns, script: &str) -> Program {
    Program::start(namespace, &[PYTHON, "-c", script])
}

/// They end with the caller's last use of them.
fn accept(listener: &TcpListener, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| listener.accept().unwrap().0).collect()
}

/// Reads a request's head.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{head:?}");
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

#[test]
fn an_http_client_whose_idle_connections_the_server_has_closed_has_not_read_the_fins() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let server = listen(&namespace);
    let port = server.local_addr().unwrap().port();
    let script = format!(
        "import requests, sys, threading\n\
         session = requests.Session()\n\
         session.trust_env = False\n\
         def get(): session.get('http://127.0.0.1:{port}/')\n\
         threads = [threading.Thread(target=get) for _ in range(5)]\n\
         for thread in threads: thread.start()\n\
         for thread in threads: thread.join()\n\
         print('idle', flush=True)\n\
         sys.stdin.read()\n"
    );
    let mut client = python(&namespace, &script);
    // None is answered before all are there, so that each needs a connection of its own.
    let mut connections = accept(&server, 5);
    for connection in &mut connections {
        read_head(connection);
    }
    for connection in &mut connections {
        connection.write_all(ANSWER).unwrap();
    }
    assert_eq!(client.line(), "idle\n");
    for connection in &connections {
        connection.shutdown(Shutdown::Write).unwrap();
    }
    let blame = Blame {
        pid: client.pid(),
        role: Role::Client,
        port,
        cause: Cause::FinUnread,
        verdict: Verdict::IdlePool,
        sockets: 5,
    };
    assert_eq!(blame.is_told(&look, &namespace), "python3");
}

#[test]
fn a_server_that_forgets_to_close_has_read_the_end() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let port = free_port(&namespace);
    let script = format!(
        "import socketserver\n\
         leaked = []\n\
         class Handler(socketserver.BaseRequestHandler):\n\
         \x20   def handle(self):\n\
         \x20       while self.request.recv(4096): pass\n\
         class Server(socketserver.TCPServer):\n\
         \x20   allow_reuse_address = True\n\
         \x20   def shutdown_request(self, request): leaked.append(request)\n\
         Server(('127.0.0.1', {port}), Handler).serve_forever()\n"
    );
    let server = python(&namespace, &script);
    let _peers: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut peer = connect(&namespace, port);
            peer.write_all(b"all of it").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        })
        .collect();
    let blame = Blame {
        pid: server.pid(),
        role: Role::Server,
        port,
        cause: Cause::EofRead,
        verdict: Verdict::Leak,
        sockets: 4,
    };
    assert_eq!(blame.is_told(&look, &namespace), "python3");
}

#[test]
fn redis_cli_left_alone_for_longer_than_the_servers_timeout_has_not_read_the_fin() {
    if is_excused("redis-cli") || is_excused("redis-server") {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let port = free_port(&namespace);
    let text = port.to_string();
    let folder = tempfile::tempdir().unwrap();
    let _server = Program::start(
        &namespace,
        &[
            "redis-server",
            "--port",
            &text,
            "--bind",
            "127.0.0.1",
            "--timeout",
            "1",
            "--save",
            "",
            "--dir",
            folder.path().to_str().unwrap(),
        ],
    );
    drop(connect(&namespace, port));
    let mut client = Program::start(&namespace, &["redis-cli", "-h", "127.0.0.1", "-p", &text]);
    client.stdin.write_all(b"PING\n").unwrap();
    let blame = Blame {
        pid: client.pid(),
        role: Role::Client,
        port,
        cause: Cause::FinUnread,
        verdict: Verdict::IdlePool,
        sockets: 1,
    };
    assert_eq!(blame.is_told(&look, &namespace), "redis-cli");
}

#[test]
fn a_node_server_that_stops_reading_has_data_unread() {
    if is_excused("node") {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let port = free_port(&namespace);
    // It reads what there is once before it heeds the pause, 64 KiB at the most.
    let script = format!(
        "require('net')\n\
         .createServer({{highWaterMark: 1}}, socket => socket.pause())\n\
         .listen({port}, '127.0.0.1')"
    );
    let server = Program::start(&namespace, &["node", "--eval", &script]);
    let _peers: Vec<TcpStream> = (0..6)
        .map(|_| {
            let mut peer = connect(&namespace, port);
            peer.write_all(&vec![b'x'; 80_000]).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        })
        .collect();
    let blame = Blame {
        pid: server.pid(),
        role: Role::Server,
        port,
        cause: Cause::DataUnread,
        verdict: Verdict::StuckConsumer,
        sockets: 6,
    };
    // Newer ones call their first thread MainThread, and so a process is called that.
    let name = blame.is_told(&look, &namespace);
    assert!(name == "node" || name.ends_with("MainThread"), "{name}");
}

#[test]
fn a_process_whose_first_thread_has_ended_is_blamed_with_all_its_descriptors() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let port = free_port(&namespace);
    // 60 is exit(2) of one thread on x86-64, and 93 elsewhere.
    let script = format!(
        "import ctypes, platform, socket, sys, threading\n\
         server = socket.create_server(('127.0.0.1', {port}))\n\
         accepted = []\n\
         def work():\n\
         \x20   for _ in range(3): accepted.append(server.accept())\n\
         \x20   sys.stdin.read()\n\
         threading.Thread(target=work).start()\n\
         number = 60 if platform.machine() == 'x86_64' else 93\n\
         ctypes.CDLL(None).syscall(number, 0)\n"
    );
    let server = python(&namespace, &script);
    let _peers: Vec<TcpStream> = (0..3)
        .map(|_| {
            let peer = connect(&namespace, port);
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        })
        .collect();
    // While it waits in accept() the kernel has a descriptor reserved, which counts as open.
    within(SHOWN, || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        require(status.contains("State:\tZ"), status)?;
        // `ss` does not see whose they are: the first thread has no files.
        let groups = look.groups(&namespace);
        let [group] = &groups[..] else {
            return Err(format!("{groups:?}"));
        };
        let owner = group.owner.as_ref().map(|owner| owner.id.tgid);
        require(
            owner == Some(server.pid())
                && (group.service.role, group.service.port) == (Role::Server, port)
                && (group.cause, group.tally.sockets) == (Cause::FinUnread, 3),
            format!("{group:?}"),
        )
    });
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let open: usize = threads
        .map(|thread| {
            let folder = thread.unwrap().path().join("fd");
            fs::read_dir(folder).unwrap().count()
        })
        .sum();
    assert!(open > 3, "{open}");
    let shown: Vec<u64> = look
        .find()
        .descriptors
        .iter()
        .filter(|(owner, _)| owner.process == "python3")
        .map(|(_, descriptors)| descriptors.open)
        .collect();
    assert_eq!(shown, [open as u64]);
}
