//! The commands for the terminal.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tcpstate_common::{Family, TcpState};

use crate::{
    documented::assert_as_documented,
    harness::{AGENT, Netns, Running, census_of, require, run, watch, within},
};

#[test]
fn check_finds_nothing_wrong_here() {
    let output = run(AGENT, &["check"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for program in ["tcp_transition", "read_table"] {
        let line = said.lines().find(|line| line.contains(program));
        assert!(line.is_some_and(|line| line.contains("runs")), "{said}");
    }
}

#[test]
fn snapshot_equals_ss_state_by_state() {
    let namespace = Netns::new();
    let _sockets = namespace.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener6 = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Vec<_> = (0..5)
            .map(|_| {
                (
                    TcpStream::connect(address).unwrap(),
                    listener.accept().unwrap(),
                )
            })
            .collect();
        // The last two are half closed, with a minisocket and with a full one.
        connections[4]
            .0
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        (listener, listener6, connections)
    });
    let truth = namespace.ss();
    assert_eq!(truth.in_state(TcpState::Established), 8);
    assert_eq!(truth.in_state(TcpState::CloseWait), 1);
    let watch = watch();
    // It sees those of all others too, which come and go.
    let others = || {
        let reading = watch.read().unwrap();
        let here = census_of(&reading, namespace.inode());
        let all = reading.sockets.unwrap();
        move |family, state| {
            all.get(family, state)
                .saturating_sub(here.get(family, state))
        }
    };
    within(Duration::from_secs(30), || {
        let before = others();
        let output = namespace.enter(|| run(AGENT, &["snapshot", "--output", "json"]));
        let after = others();
        assert!(output.status.success(), "{output:?}");
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_as_documented("snapshot", [&shown]);
        assert!(shown["namespaces"].as_u64().unwrap() >= 2, "{shown}");
        for (family, name) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
            for state in TcpState::FOUND {
                let shown = shown["sockets"][name][state.name()].as_u64().unwrap();
                let (before, after) = (before(family, state), after(family, state));
                let here = truth.get(family, state);
                let expected = here + before.min(after)..=here + before.max(after);
                require(
                    expected.contains(&shown),
                    format!("{name} {}: {shown}, not {expected:?}", state.name()),
                )?;
            }
        }
        Ok(())
    });
}

/// A running `trace` and the lines it prints.
struct Trace {
    process: Running,
    lines: mpsc::Receiver<String>,
}

impl Trace {
    /// Starts it, and waits until it sees what happens in `namespace` on `port`.
    fn start(namespace: &Netns, arguments: &[&str], port: u16) -> Self {
        let mut process = Running::start(
            Command::new(AGENT)
                .arg("trace")
                .args(arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let stdout = BufReader::new(process.take_stdout());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                // Ends when the test has seen enough.
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        let trace = Self { process, lines };
        within(Duration::from_secs(30), || {
            namespace.enter(|| drop(TcpListener::bind(("127.0.0.1", port)).unwrap()));
            trace
                .lines
                .recv_timeout(Duration::from_millis(200))
                .map_err(|error| error.to_string())
        });
        thread::sleep(Duration::from_millis(200));
        while trace.lines.try_recv().is_ok() {}
        trace
    }

    /// Lines until none has come for a while.
    fn collect(&self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(1)) {
            lines.push(line);
        }
        lines
    }

    /// Interrupts it and returns its last words.
    fn stop(mut self) -> String {
        let mut stderr = self.process.take_stderr();
        self.process.signal(Signal::INT);
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        let output = self.process.finish();
        assert_eq!(output.status.code(), Some(0), "{said}");
        said
    }
}

fn one_connection(namespace: &Netns, port: u16) {
    namespace.enter(|| {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        drop(server);
    });
}

#[test]
fn trace_shows_a_handshake_and_a_close_in_the_order_of_the_textbook() {
    let namespace = Netns::new();
    let trace = Trace::start(&namespace, &["--port", "7001", "--output", "json"], 7001);
    one_connection(&namespace, 7001);
    let lines: Vec<serde_json::Value> = trace
        .collect()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_as_documented("trace", &lines);
    let of = |is_server: bool| -> Vec<(String, String)> {
        lines
            .iter()
            .filter(|line| (line["local_port"] == 7001) == is_server)
            .map(|line| {
                let name = |key: &str| line[key].as_str().unwrap().to_owned();
                (name("from"), name("to"))
            })
            .collect()
    };
    let pairs = |states: &[&str]| -> Vec<(String, String)> {
        states
            .windows(2)
            .map(|pair| (pair[0].to_owned(), pair[1].to_owned()))
            .collect()
    };
    assert_eq!(
        of(false),
        pairs(&[
            "close",
            "syn_sent",
            "established",
            "fin_wait1",
            "fin_wait2",
            "close"
        ])
    );
    let mut server = pairs(&[
        "listen",
        "syn_recv",
        "established",
        "close_wait",
        "last_ack",
        "close",
    ]);
    server.insert(0, ("close".to_owned(), "listen".to_owned()));
    server.push(("listen".to_owned(), "close".to_owned()));
    assert_eq!(of(true), server);
    for line in &lines {
        assert_eq!(line["namespace"], namespace.inode());
        let is_first =
            ["close", "listen"].contains(&line["from"].as_str().unwrap()) && line["to"] != "close";
        assert_eq!(line["in_state_seconds"].is_null(), is_first, "{line}");
    }
    let reasons = |is_server: bool| -> Vec<&str> {
        let of_side = lines
            .iter()
            .filter(|line| (line["local_port"] == 7001) == is_server);
        of_side.filter_map(|line| line["reason"].as_str()).collect()
    };
    // The end of the listener is none of a connection.
    assert_eq!(reasons(false), ["local_fin"]);
    assert_eq!(reasons(true), ["remote_fin"]);
    let last_words = trace.stop();
    assert!(last_words.contains("0 lost"), "{last_words}");
}

#[test]
fn trace_says_with_each_end_why() {
    let namespace = Netns::new();
    let trace = Trace::start(&namespace, &["--port", "7004", "--state", "close"], 7004);
    one_connection(&namespace, 7004);
    namespace.enter(|| {
        let listener = TcpListener::bind(("127.0.0.1", 7004)).unwrap();
        let client = TcpStream::connect(("127.0.0.1", 7004)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        socket2::SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
    });
    let lines = trace.collect();
    let count = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    for words in [
        ", this side closed first",
        ", the peer closed first",
        // In FIN_WAIT2, which without a reset ends well.
        ", this side cut it off",
        ", the peer reset it (broken pipe)",
    ] {
        assert_eq!(count(words), 1, "{words}: {lines:#?}");
    }
    assert_eq!(count("close       -> close"), 0, "{lines:#?}");
    trace.stop();
}

#[test]
fn trace_prints_only_the_states_it_was_asked_for() {
    let namespace = Netns::new();
    let trace = Trace::start(
        &namespace,
        &["--port", "7002", "--state", "close_wait,listen"],
        7002,
    );
    one_connection(&namespace, 7002);
    let lines = trace.collect();
    let count = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(count("established -> close_wait"), 1, "{lines:#?}");
    assert_eq!(count("close_wait  -> last_ack"), 1, "{lines:#?}");
    assert_eq!(count("syn_sent"), 0, "{lines:#?}");
    trace.stop();
}

#[test]
fn trace_ends_when_no_one_reads() {
    let namespace = Netns::new();
    let Trace { mut process, lines } = Trace::start(&namespace, &["--port", "7003"], 7003);
    // The reader stops at the next line, which closes the pipe.
    drop(lines);
    let ended = within(Duration::from_secs(30), || {
        one_connection(&namespace, 7003);
        process.try_finish().ok_or_else(|| "it goes on".to_owned())
    });
    assert_eq!(ended.code(), Some(0));
}
