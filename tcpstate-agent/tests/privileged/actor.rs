//! Other processes: the test binary, started again with something to do.
//!
//! Who holds a socket is told by process, so the tests need processes. They need no other program
//! for it, and so these tests run wherever the test binary does.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::{
    io::FdFlags,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    process::{Resource, Rlimit},
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tcpstate_agent::collect::close_wait::{Cause, Role};

use crate::{
    harness::{Netns, Running},
    where_in_code::{leak_tokio, mptcp},
};

/// What the peer sends before its FIN where data is to stay unread.
pub(crate) const UNREAD: usize = 100;

/// What the process calls itself that inherits a socket.
pub(crate) const HEIR: &str = "heir";

/// How long an actor has to make its sockets.
const STARTED: Duration = Duration::from_mins(1);

const DUTY: &str = "TCPSTATE_TEST_DUTY";
const NAME: &str = "TCPSTATE_TEST_NAME";
const CGROUP: &str = "TCPSTATE_TEST_CGROUP";
/// What an actor says once its sockets are there; its port follows.
const READY: &str = "ready ";

/// What an actor does. Those with sockets have their peers as well, which wait in FIN_WAIT2.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Duty {
    /// Keeps sockets in CLOSE_WAIT.
    Keep(Sockets),
    /// The same, as a server that starts `workers` which inherit the sockets and the one that it
    /// listens on, and keep them too.
    Share { sockets: Sockets, workers: usize },
    /// The same, but all sockets except `kept` are on the way to a process that does not take them.
    Send { sockets: Sockets, kept: usize },
    /// Listens, as one of several at one address.
    Listen { address: SocketAddr, accepts: bool },
    /// Listens on so many ports, from that of the address on.
    ListenOnMany { address: SocketAddr, count: u16 },
    /// Opens connections one after the other; each is in CLOSE_WAIT for a moment.
    Pass {
        address: SocketAddr,
        connections: usize,
    },
    /// Listens, starts a process that inherits the socket, and waits to be killed.
    Bequeath { address: SocketAddr },
    /// Keeps sockets in CLOSE_WAIT, by another thread than the first, which ends.
    Outlive(Sockets),
    /// Listens, reads what comes to its end, and closes every other connection only.
    Leak,
    /// The same with connections of MPTCP.
    LeakMptcp,
    /// The same as a tokio program.
    LeakInTokio,
    /// Does nothing.
    Idle,
}

/// Sockets that are all in CLOSE_WAIT for one reason.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sockets {
    pub(crate) role: Role,
    pub(crate) cause: Cause,
    /// What the server listens on.
    pub(crate) address: SocketAddr,
    pub(crate) count: usize,
}

/// An actor that plays its duty. Dropping it ends it, and closes its sockets.
pub(crate) struct Actor {
    process: Running,
    /// The port of its server; 0 without one.
    pub(crate) port: u16,
}

impl Actor {
    /// Starts an actor in `namespace` that calls itself `name`, and waits until all is as its
    /// duty says. The thread that calls this must outlive it.
    pub(crate) fn start(namespace: &Netns, name: &str, duty: Duty) -> Self {
        Self::start_named(namespace, name.as_bytes(), duty)
    }

    /// The same, with a name that may be any bytes.
    pub(crate) fn start_named(namespace: &Netns, name: &[u8], duty: Duty) -> Self {
        Self::begin(Some(namespace), OsStr::from_bytes(name), duty, None).wait()
    }

    /// The same, in the test's own network namespace.
    pub(crate) fn start_here(name: &str, duty: Duty) -> Self {
        Self::begin(None, name.as_ref(), duty, None).wait()
    }

    /// The same, in the cgroup that has this folder, and in a process namespace of its own.
    pub(crate) fn start_contained(
        namespace: &Netns,
        name: &str,
        duty: Duty,
        cgroup: &Path,
    ) -> Self {
        Self::begin(Some(namespace), name.as_ref(), duty, Some(cgroup)).wait()
    }

    /// Starts several, and waits for them together.
    pub(crate) fn start_all<'a>(
        namespace: &Netns,
        duties: impl IntoIterator<Item = (&'a str, Duty)>,
    ) -> Vec<Self> {
        let begun: Vec<_> = duties
            .into_iter()
            .map(|(name, duty)| Self::begin(Some(namespace), name.as_ref(), duty, None))
            .collect();
        begun.into_iter().map(Beginning::wait).collect()
    }

    /// The number of its process, as far as it is in none of its own namespaces.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid().as_raw_nonzero().get().cast_unsigned()
    }

    /// Ends it alone: what has inherited its sockets or its stdin goes on.
    pub(crate) fn kill(&self) {
        self.process.signal(rustix::process::Signal::KILL);
    }

    fn begin(
        namespace: Option<&Netns>,
        name: &OsStr,
        duty: Duty,
        cgroup: Option<&Path>,
    ) -> Beginning {
        let binary = env::current_exe().unwrap();
        let mut command = match namespace {
            Some(namespace) => {
                // It becomes the actor, which is ended with the thread that started it: a thread
                // that enters the namespace itself would end too soon.
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.way_in()));
                if cgroup.is_some() {
                    // The actor ends when nobody holds its stdin any more.
                    command.args(["unshare", "--pid", "--fork"]);
                }
                command.arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command
            .env(DUTY, serde_json::to_string(&duty).unwrap())
            .env(NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        match cgroup {
            Some(folder) => command.env(CGROUP, folder),
            None => command.env_remove(CGROUP),
        };
        let mut process = Running::start(&mut command);
        let stdout = BufReader::new(process.take_stdout());
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            let port = stdout.lines().find_map(|line| {
                let port = line.ok()?.strip_prefix(READY)?.parse::<u16>();
                Some(port.unwrap())
            });
            // Whoever no longer waits needs no answer.
            let _ = port.map(|port| sender.send(port));
        });
        Beginning { process, said }
    }
}

struct Beginning {
    process: Running,
    said: mpsc::Receiver<u16>,
}

impl Beginning {
    fn wait(self) -> Actor {
        let port = self.said.recv_timeout(STARTED);
        Actor {
            process: self.process,
            port: port.expect("the actor does not play (its words are on stderr)"),
        }
    }
}

/// Plays the duty that this process was started with, to its end; returns where it has none.
pub(crate) fn play_if_told() {
    let Some(duty) = env::var_os(DUTY) else {
        return;
    };
    if let Some(folder) = env::var_os(CGROUP) {
        // 0 is whoever writes, whatever its number.
        fs::write(Path::new(&folder).join("cgroup.procs"), "0").unwrap();
    }
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    // The first name is longer, so that a kernel that does not clear what is behind a name's
    // NUL has something there.
    for name in [OsStr::new("a-longer-name-1"), &env::var_os(NAME).unwrap()] {
        fs::write("/proc/self/comm", name.as_bytes()).unwrap();
    }
    let duty: Duty = serde_json::from_str(duty.to_str().unwrap()).unwrap();
    duty.play();
    std::process::exit(0);
}

impl Duty {
    fn play(self) {
        match self {
            Self::Keep(sockets) => {
                let made = sockets.make();
                until_told(made.port());
            }
            Self::Share { sockets, workers } => {
                let made = sockets.make();
                let sockets = made.kept.iter().map(AsFd::as_fd);
                for socket in sockets.chain([made.listener.as_fd()]) {
                    rustix::io::fcntl_setfd(socket, FdFlags::empty()).unwrap();
                }
                let workers: Vec<_> = (1..=workers)
                    .map(|number| {
                        let mut name = env::var_os(NAME).unwrap();
                        name.push(OsString::from(number.to_string()));
                        Actor::begin(None, &name, Self::Idle, None).wait()
                    })
                    .collect();
                until_told(made.port());
                drop(workers);
            }
            Self::Send { sockets, kept } => {
                let mut made = sockets.make();
                let (sender, _receiver) = UnixStream::pair().unwrap();
                let port = made.port();
                for socket in made.kept.drain(kept..) {
                    send_away(&sender, socket);
                }
                until_told(port);
            }
            Self::Listen { address, accepts } => {
                let listener = listen(address);
                let port = listener.local_addr().unwrap().port();
                if accepts {
                    thread::spawn(move || {
                        for connection in listener.incoming() {
                            let mut connection = connection.unwrap();
                            thread::spawn(move || {
                                // Whatever comes: it is closed after the end.
                                let _ = io::copy(&mut connection, &mut io::sink());
                            });
                        }
                    });
                    until_told(port);
                } else {
                    until_told(port);
                    drop(listener);
                }
            }
            Self::ListenOnMany { address, count } => {
                let ports = (address.port()..).take(count.into());
                let listeners: Vec<_> = ports
                    .map(|port| listen(SocketAddr::new(address.ip(), port)))
                    .collect();
                until_told(address.port());
                drop(listeners);
            }
            Self::Pass {
                address,
                connections,
            } => {
                let listener = listen(address);
                let address = listener.local_addr().unwrap();
                for _ in 0..connections {
                    let peer = TcpStream::connect(address).unwrap();
                    let (mut socket, _) = listener.accept().unwrap();
                    drop(peer);
                    read_to_the_end(&mut socket);
                }
                until_told(address.port());
            }
            Self::Bequeath { address } => {
                let listener = listen(address);
                let port = listener.local_addr().unwrap().port();
                rustix::io::fcntl_setfd(&listener, FdFlags::empty()).unwrap();
                #[expect(clippy::zombie_processes, reason = "it outlives this process")]
                // It ends when the test lets go of the stdin that both have.
                let _heir = Command::new(env::current_exe().unwrap())
                    .env(DUTY, serde_json::to_string(&Self::Idle).unwrap())
                    .env(NAME, HEIR)
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap();
                say_ready(port);
                // Not for stdin to end, which is when the heir ends.
                thread::sleep(Duration::from_mins(10));
            }
            Self::Outlive(sockets) => outlive(sockets),
            Self::Leak => leak(listen("127.0.0.1:0".parse().unwrap())),
            Self::LeakMptcp => leak(mptcp::listen()),
            Self::LeakInTokio => {
                let (runtime, port) = leak_tokio::serve();
                until_told(port);
                drop(runtime);
            }
            Self::Idle => until_told(0),
        }
    }
}

/// Keeps sockets by a thread that goes on when the first has ended, which only it can do itself:
/// in a child, since the first of this process belongs to the test runner.
fn outlive(sockets: Sockets) {
    let name = env::var_os(NAME).unwrap();
    // SAFETY: the child uses nothing that another thread of this process could hold meanwhile, but
    // for the allocator, which glibc and musl make usable.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child > 0 {
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        return;
    }
    fs::write("/proc/self/comm", name.as_bytes()).unwrap();
    thread::spawn(move || {
        let made = sockets.make();
        until_told(made.port());
        // SAFETY: it ends the process.
        unsafe { libc::_exit(0) };
    });
    // SAFETY: it ends this thread alone, of whose stack nobody borrows.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Serves connections, which begin with what is to become of them.
fn leak(listener: TcpListener) {
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        loop {
            let mut connection = accept_for_leaker(&listener);
            thread::spawn(move || {
                let mut command = [0];
                connection.read_exact(&mut command).unwrap();
                match command {
                    [LEAK] => leak_after_reading(connection),
                    [DIAL] => mptcp::leak_dialled(&mut connection),
                    _ => close_after_reading(connection),
                }
            });
        }
    });
    until_told(port);
}

/// What a connection to an actor that leaks begins with where it is to leak that one.
pub(crate) const LEAK: u8 = b'L';
const CLOSE: u8 = b'O';
/// Where it is to leak one that it opens itself, to the port that follows.
pub(crate) const DIAL: u8 = b'C';

#[inline(never)]
fn accept_for_leaker(listener: &TcpListener) -> TcpStream {
    listener.accept().unwrap().0
}

#[inline(never)]
pub(crate) fn read_for_leaker(connection: &mut TcpStream) -> u64 {
    io::copy(connection, &mut io::sink()).unwrap()
}

// What each does with the number keeps the compiler from making a jump of the call.
#[inline(never)]
fn leak_after_reading(mut connection: TcpStream) {
    let read = read_for_leaker(&mut connection);
    std::mem::forget(connection);
    std::hint::black_box(read);
}

#[inline(never)]
fn close_after_reading(mut connection: TcpStream) {
    let read = read_for_leaker(&mut connection);
    drop(connection);
    std::hint::black_box(read);
}

/// Has an actor that leaks close a connection, and waits until it has.
pub(crate) fn ask_leaker_to_close(port: u16) {
    let mut peer = TcpStream::connect(("127.0.0.1", port)).unwrap();
    peer.write_all(&[CLOSE]).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    peer.read_to_end(&mut Vec::new()).unwrap();
}

/// Has an actor that leaks do so with `count` connections, and close as many others. What it
/// returns has to stay open.
pub(crate) fn ask_leaker(port: u16, count: u64) -> Vec<TcpStream> {
    let mut peers = Vec::new();
    for _ in 0..count {
        for command in [LEAK, CLOSE] {
            let mut peer = TcpStream::connect(("127.0.0.1", port)).unwrap();
            peer.write_all(&[command]).unwrap();
            peer.write_all(b"some data").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peers.push(peer);
        }
    }
    peers
}

/// Says that all is there, and waits for the end.
fn until_told(port: u16) {
    say_ready(port);
    io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
}

fn say_ready(port: u16) {
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}{port}").unwrap();
    stdout.flush().unwrap();
}

struct Made {
    kept: Vec<TcpStream>,
    peers: Vec<TcpStream>,
    listener: TcpListener,
}

impl Made {
    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }
}

impl Sockets {
    fn make(self) -> Made {
        let listener = listen(self.address);
        let address = listener.local_addr().unwrap();
        let mut made = Made {
            kept: Vec::new(),
            peers: Vec::new(),
            listener,
        };
        for _ in 0..self.count {
            let client = TcpStream::connect(address).unwrap();
            if self.cause == Cause::Unaccepted {
                client.shutdown(Shutdown::Write).unwrap();
                made.peers.push(client);
                continue;
            }
            let (server, _) = made.listener.accept().unwrap();
            let (mut kept, mut peer) = match self.role {
                Role::Server => (server, client),
                Role::Client => (client, server),
            };
            if self.cause == Cause::DataUnread {
                peer.write_all(&[b'x'; UNREAD]).unwrap();
            }
            peer.shutdown(Shutdown::Write).unwrap();
            match self.cause {
                Cause::EofRead => read_to_the_end(&mut kept),
                Cause::Sending => {
                    read_to_the_end(&mut kept);
                    send_until_full(&mut kept);
                }
                Cause::Unaccepted | Cause::FinUnread | Cause::DataUnread => {}
            }
            made.kept.push(kept);
            made.peers.push(peer);
        }
        made
    }
}

/// Listens at an address at which others may listen too. One that is mapped from IPv4 makes a
/// socket of both families.
pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    listen_with(address, 4096)
}

/// The same, with room for `backlog` connections that wait to be accepted.
pub(crate) fn listen_with(address: SocketAddr, backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if let SocketAddr::V6(address) = address {
        let is_mapped = address.ip().to_ipv4_mapped().is_some();
        socket.set_only_v6(!is_mapped).unwrap();
    }
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

fn read_to_the_end(socket: &mut TcpStream) {
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
}

fn send_until_full(socket: &mut TcpStream) {
    socket.set_nonblocking(true).unwrap();
    loop {
        match socket.write(&[b'x'; 16_384]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn send_away(to: &UnixStream, socket: TcpStream) {
    let descriptors = [socket.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let data = [io::IoSlice::new(b"x")];
    rustix::net::sendmsg(to, &data, &mut ancillary, SendFlags::empty()).unwrap();
    // What was sent holds it now.
    drop(socket);
}
