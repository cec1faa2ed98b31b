//! `where`: programs that leak on one way and close on another, through shared functions. The
//! function that leaks has to be named, and the other one not.

mod compiled;
mod elsewhere;
mod interpreted;
#[path = "programs/leak_tokio.rs"]
pub(crate) mod leak_tokio;
pub(crate) mod mptcp;
mod processes;
mod waiting;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use tcpstate_common::TcpState;

use crate::{
    harness::{AGENT, Netns, Running, on_this_cpu, within},
    programs::Program,
};

/// What the server and its backend listen on.
const PORT: u16 = 7000;
const BACKEND: u16 = 7001;
/// How often each command is given.
const ROUNDS: u64 = 6;

/// Starts a program with the two ports behind its own words, and waits until it is ready.
fn start(namespace: &Netns, words: &[&str]) -> Program {
    let ports = [PORT.to_string(), BACKEND.to_string()];
    let words: Vec<&str> = words
        .iter()
        .copied()
        .chain(ports.iter().map(String::as_str))
        .collect();
    start_plain(namespace, &words)
}

/// The same with its own words alone.
fn start_plain(namespace: &Netns, words: &[&str]) -> Program {
    let mut program = Program::start(namespace, words);
    assert_eq!(program.line(), "ready\n", "{words:?}");
    program
}

/// `where`, as it runs.
struct Where {
    process: Running,
}

impl Where {
    /// Starts it, and waits until it watches.
    #[expect(clippy::print_stderr, reason = "shown where a test fails")]
    fn start(arguments: &[&str]) -> Self {
        let mut process = Running::start(
            Command::new(AGENT)
                .args(["where", "--output", "json", "--seconds", "600"])
                .args(arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let stderr = BufReader::new(process.take_stderr());
        let (begins, begun) = mpsc::channel();
        // Until it ends, so that it can say more: where a test fails, that is shown.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("where: {line}");
                // Libraries may have warned of something before.
                if line.starts_with("watching ") {
                    let _ = begins.send(());
                }
            }
        });
        begun
            .recv_timeout(on_this_cpu(Duration::from_mins(1)))
            .expect("where does not begin to watch");
        Self { process }
    }

    /// Ends it, and gives its report.
    fn finish(self) -> Value {
        self.process.signal(rustix::process::Signal::INT);
        self.wait()
    }

    /// Waits until it ends by itself.
    fn wait(self) -> Value {
        let output = self.process.finish();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Has a server leak and close connections while it is watched, by each of `commands` as often, and
/// gives the report.
fn watch_leaking(namespace: &Netns, server: &Program, commands: &[u8], more: &[&str]) -> Value {
    watch_leaking_slowly(namespace, server, commands, more, Duration::ZERO)
}

/// The same, with a pause after each round.
fn watch_leaking_slowly(
    namespace: &Netns,
    server: &Program,
    commands: &[u8],
    more: &[&str],
    pause: Duration,
) -> Value {
    let pid = server.pid().to_string();
    let arguments = [&["--pid", &*pid], more].concat();
    let watching = Where::start(&arguments);
    let leaked = commands.iter().filter(|command| b"LCP".contains(command));
    let leaked = leaked.count() as u64 * ROUNDS;
    let peers = namespace.enter(|| give(commands, pause));
    // All that will stay has stayed for longer than a second.
    await_close_wait(namespace, leaked);
    thread::sleep(Duration::from_millis(1_200));
    let report = watching.finish();
    drop(peers);
    report
}

/// Waits until so many sockets are in CLOSE_WAIT.
#[track_caller]
fn await_close_wait(namespace: &Netns, wanted: u64) {
    within(Duration::from_secs(30), || {
        let held = namespace.ss().in_state(TcpState::CloseWait);
        (held == wanted)
            .then_some(())
            .ok_or_else(|| format!("{held} of {wanted} in CLOSE_WAIT"))
    });
}

/// Gives the commands, and serves the backend that some of them want. What it returns has to stay
/// open.
fn give(commands: &[u8], pause: Duration) -> Vec<TcpStream> {
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, BACKEND)).unwrap();
    let mut peers = Vec::new();
    for _ in 0..ROUNDS {
        for command in commands {
            let mut peer = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).unwrap();
            peer.write_all(&[*command]).unwrap();
            thread::sleep(Duration::from_millis(2));
            if b"CD".contains(command) {
                let (mut asked, _) = backend.accept().unwrap();
                asked.write_all(b"an answer").unwrap();
                asked.shutdown(Shutdown::Write).unwrap();
                peers.push(asked);
            }
            peer.write_all(b"some data").unwrap();
            thread::sleep(Duration::from_millis(2));
            peer.shutdown(Shutdown::Write).unwrap();
            peers.push(peer);
        }
        thread::sleep(pause);
    }
    peers
}

/// The functions of a place of a group, the innermost first.
fn functions<'a>(group: &'a Value, place: &str) -> Vec<&'a str> {
    let frames = group[place]["frames"].as_array();
    let frames = frames.map(Vec::as_slice).unwrap_or_default();
    frames
        .iter()
        .filter_map(|frame| frame["function"].as_str())
        .collect()
}

/// Whether a function is that one, or a closure in it, whatever its namespace and class are.
fn is_named(function: &str, name: &str) -> bool {
    let is_end =
        |rest: &str| !rest.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
    // What is awaited is a closure to Rust's compiler.
    [function, function.trim_end_matches("::{{closure}}")]
        .iter()
        .any(|function| function.strip_suffix(name).is_some_and(is_end))
}

/// All sockets whose last read was called by `wanted` are so many, and none by `other`.
#[track_caller]
fn assert_blamed(report: &Value, place: &str, wanted: &str, other: &str, sockets: u64) {
    let groups = report["groups"].as_array().unwrap();
    let by = |name: &str| -> u64 {
        groups
            .iter()
            .filter(|group| {
                functions(group, place)
                    .iter()
                    .any(|function| is_named(function, name))
            })
            .map(|group| group["sockets"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(by(wanted), sockets, "{wanted}: {report:#}");
    assert_eq!(by(other), 0, "{other}: {report:#}");
}

/// The line of the source in which a function of the test's programs does what is written there.
fn line_of(source: &str, text: &str) -> u64 {
    let path = programs().join(source);
    let source = fs::read_to_string(&path).unwrap();
    let line = source.lines().position(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("no {text:?} in {}", path.display())) as u64 + 1
}

/// The line of a function at a place of the first group that has it.
#[track_caller]
fn line_at(report: &Value, place: &str, function: &str) -> u64 {
    let groups = report["groups"].as_array().unwrap();
    let frames = groups
        .iter()
        .filter_map(|group| group[place]["frames"].as_array())
        .flatten();
    frames
        .filter(|frame| {
            let name = frame["function"].as_str();
            name.is_some_and(|name| is_named(name, function))
        })
        .find_map(|frame| frame["line"].as_u64())
        .unwrap_or_else(|| panic!("no line of {function}: {report:#}"))
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/privileged/where_in_code/programs")
}

fn source(name: &str) -> String {
    programs().join(name).to_str().unwrap().to_owned()
}

/// A folder for what is compiled.
fn folder() -> TempDir {
    TempDir::new().unwrap()
}

/// Compiles `leak.c` as most C programs are.
fn compile_leak(to: &str) {
    let source = source("leak.c");
    compile("gcc", &["-O2", "-g", "-pthread", "-o", to, &source]);
}

/// Runs a compiler.
fn compile(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env("GOCACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/go"))
        .env("GO111MODULE", "off")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}
