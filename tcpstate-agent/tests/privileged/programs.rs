//! Programs that people run, as they keep sockets in CLOSE_WAIT, or do not.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use tcpstate_agent::model::close_wait::{Cause, Role};
use tempfile::TempDir;

use crate::{
    close_wait::{Look, SHOWN, SOCKETS, Shown, ss},
    harness::{Netns, Running, is_excused, require, within},
};

/// The one that Debian's packages are for.
const PYTHON: &str = "/usr/bin/python3";
/// What those are excused by that need Python.
const PYTHON_PACKAGE: &str = "python3-requests";

/// How long programs have to start.
const STARTED: Duration = Duration::from_secs(30);

/// A program in a namespace.
struct Program {
    process: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(namespace: &Netns, words: &[&str]) -> Self {
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
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn pid(&self) -> u32 {
        self.process.pid().as_raw_nonzero().get().cast_unsigned()
    }
}

/// Who is to blame, and for what.
struct Blame {
    pid: u32,
    role: Role,
    port: u16,
    cause: Cause,
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
            let shown = look.page().sum(SOCKETS, &labels);
            require(shown == self.sockets, format!("{shown} on the page"))?;
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
    let mut client = Program::start(&namespace, &[PYTHON, "-c", &script]);
    // None is answered before all are there, so that each needs a connection of its own.
    let mut connections: Vec<TcpStream> = (0..5).map(|_| server.accept().unwrap().0).collect();
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
    let server = Program::start(&namespace, &[PYTHON, "-c", &script]);
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
        sockets: 6,
    };
    // Newer ones call their first thread MainThread, and so a process is called that.
    let name = blame.is_told(&look, &namespace);
    assert!(name == "node" || name.ends_with("MainThread"), "{name}");
}

/// nginx with one worker, which keeps idle connections to one upstream.
struct Nginx {
    _master: Program,
    _folder: TempDir,
    worker: rustix::process::Pid,
    port: u16,
}

impl Nginx {
    fn start(namespace: &Netns, upstream: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port(namespace);
        let path = folder.path().display();
        let config = folder.path().join("nginx.conf");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"))
            .concat();
        fs::write(
            &config,
            format!(
                "daemon off; worker_processes 1; user root; pid {path}/pid;\n\
                 error_log {path}/errors; events {{}}\n\
                 http {{\n{temporary}access_log off;\n\
                 upstream backend {{ server 127.0.0.1:{upstream}; keepalive 16; }}\n\
                 server {{ listen 127.0.0.1:{port}; location / {{\n\
                 proxy_pass http://backend; proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\"; }} }} }}\n"
            ),
        )
        .unwrap();
        let errors = folder.path().join("errors");
        let words = ["nginx", "-e", errors.to_str().unwrap(), "-c"];
        let words = [&words[..], &[config.to_str().unwrap()]].concat();
        let master = Program::start(namespace, &words);
        let children = format!("/proc/{0}/task/{0}/children", master.pid());
        let worker = within(STARTED, || {
            let children = fs::read_to_string(&children).map_err(|error| error.to_string())?;
            let first = children.split(' ').next().and_then(|pid| pid.parse().ok());
            let said = fs::read_to_string(&errors).unwrap_or_default();
            first
                .and_then(rustix::process::Pid::from_raw)
                .ok_or_else(|| format!("no worker: {said}"))
        });
        Self {
            _master: master,
            _folder: folder,
            worker,
            port,
        }
    }
}

/// Idle connections of nginx to its upstream, at the upstream.
fn idle_connections(namespace: &Netns, nginx: &Nginx, upstream: &TcpListener) -> Vec<TcpStream> {
    let mut peers: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut peer = connect(namespace, nginx.port);
            peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            peer
        })
        .collect();
    let mut connections: Vec<TcpStream> = (0..5).map(|_| upstream.accept().unwrap().0).collect();
    for connection in &mut connections {
        let head = read_head(connection);
        assert!(!head.contains("Connection: close"), "{head}");
        connection.write_all(ANSWER).unwrap();
    }
    for peer in &mut peers {
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
    }
    connections
}

#[test]
fn nginx_whose_upstream_closes_idle_connections_closes_too_and_is_not_blamed() {
    if is_excused("nginx") {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let upstream = listen(&namespace);
    let port = upstream.local_addr().unwrap().port();
    let nginx = Nginx::start(&namespace, port);
    let connections = idle_connections(&namespace, &nginx, &upstream);
    for mut connection in connections {
        connection.shutdown(Shutdown::Write).unwrap();
        // It closes at once, and says so.
        connection
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    }
    drop(upstream);
    // A dead upstream is nothing that nginx could keep a socket for.
    let mut peer = connect(&namespace, nginx.port);
    peer.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("502 Bad Gateway"), "{answer}");
    drop(peer);
    within(SHOWN, || {
        let (truth, groups) = (ss(&namespace), look.groups(&namespace));
        require(
            truth.is_empty() && groups.is_empty(),
            format!("{truth:?}, {groups:?}"),
        )
    });
}

#[test]
fn nginx_that_hangs_is_blamed_until_it_goes_on() {
    if is_excused("nginx") {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let upstream = listen(&namespace);
    let port = upstream.local_addr().unwrap().port();
    let nginx = Nginx::start(&namespace, port);
    let connections = idle_connections(&namespace, &nginx, &upstream);
    rustix::process::kill_process(nginx.worker, Signal::STOP).unwrap();
    for connection in &connections {
        connection.shutdown(Shutdown::Write).unwrap();
    }
    let blame = Blame {
        pid: nginx.worker.as_raw_nonzero().get().cast_unsigned(),
        role: Role::Client,
        port,
        cause: Cause::FinUnread,
        sockets: 5,
    };
    assert_eq!(blame.is_told(&look, &namespace), "nginx");
    rustix::process::kill_process(nginx.worker, Signal::CONT).unwrap();
    within(SHOWN, || {
        let groups = look.groups(&namespace);
        require(groups.is_empty(), format!("{groups:?}"))
    });
}
