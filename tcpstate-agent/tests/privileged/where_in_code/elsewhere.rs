//! What is not where one looks first: sockets of network namespaces that no thread is in, and reads
//! that no hook sees.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    PORT, ROUNDS, Where, assert_blamed, await_close_wait, compile, folder, source, start,
    start_plain,
    waiting::{PYTHON, threads_now},
};
use crate::{
    harness::{AGENT, Netns, is_excused, run},
    programs::Program,
};

/// Those that stay in CLOSE_WAIT, by cause and whether they were there before, as they are told.
fn counts(report: &Value, namespace: Option<u64>) -> Vec<(&str, bool, u64)> {
    let groups = report["groups"].as_array().unwrap();
    let mut counts: Vec<(&str, bool, u64)> = groups
        .iter()
        .map(|group| {
            assert_eq!(group["namespace"].as_u64(), namespace, "{group:#}");
            (
                group["cause"].as_str().unwrap(),
                group["before_watch"].as_bool().unwrap(),
                group["sockets"].as_u64().unwrap(),
            )
        })
        .collect();
    counts.sort_unstable();
    counts
}

/// Compiles the server whose sockets are elsewhere; its name is what it calls itself.
fn compile_elsewhere(folder: &Path, name: &str) -> String {
    let binary = folder.join(name).to_str().unwrap().to_owned();
    compile("gcc", &["-O2", "-g", "-o", &binary, &source("elsewhere.c")]);
    binary
}

/// Has such a server carry out commands.
fn ask(namespace: &Netns, commands: &[u8]) {
    namespace.enter(|| {
        for command in commands {
            let mut asked = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).unwrap();
            asked.write_all(&[*command]).unwrap();
            // Until it is done.
            asked.read_to_end(&mut Vec::new()).unwrap();
        }
    });
}

#[test]
fn sockets_of_a_namespace_that_no_thread_is_in_are_blamed() {
    if is_excused("gcc") {
        return;
    }
    let folder = folder();
    let binary = compile_elsewhere(folder.path(), "elsewhere");
    let namespace = Netns::new();
    let server = start_plain(&namespace, &[&binary, &PORT.to_string()]);
    let ask = |commands: &[u8]| ask(&namespace, commands);
    ask(b"LL");
    let watching = Where::start(&["--pid", &server.pid().to_string()]);
    for _ in 0..ROUNDS {
        ask(b"LO");
    }
    ask(b"U");
    thread::sleep(Duration::from_millis(1_200));
    let report = watching.finish();
    assert_blamed(
        &report,
        "last_read",
        "leak_elsewhere",
        "close_elsewhere",
        ROUNDS,
    );
    let elsewhere = report["groups"][0]["namespace"].as_u64();
    assert!(elsewhere.is_some(), "{report:#}");
    let expected = [
        ("eof_read", false, ROUNDS),
        ("eof_read", true, 2),
        ("unaccepted", false, 1),
    ];
    assert_eq!(counts(&report, elsewhere), expected, "{report:#}");
    // Without a watch nothing may be loaded that could tell.
    let report = threads_now(server.pid());
    assert_eq!(counts(&report, None), [], "{report:#}");
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("of network namespaces that no thread of it is in"),
        "{notes}"
    );
}

/// Has a server that reads in such a way leak what comes, and gives the report.
fn watch_unseen(words: &[&str]) -> Value {
    let namespace = Netns::new();
    let server = start(&namespace, words);
    let watching = Where::start(&["--pid", &server.pid().to_string()]);
    let peers: Vec<TcpStream> = namespace.enter(|| {
        let send = |_| {
            let mut peer = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).unwrap();
            peer.write_all(b"some data").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        };
        (0..ROUNDS).map(send).collect()
    });
    await_close_wait(&namespace, ROUNDS);
    thread::sleep(Duration::from_millis(1_200));
    let report = watching.finish();
    drop(peers);
    report
}

#[test]
fn what_splice_has_read_is_said_not_to_have_been_seen() {
    if is_excused("python3-requests") {
        return;
    }
    let report = watch_unseen(&[PYTHON, &source("splice.py")]);
    assert_eq!(
        counts(&report, None),
        [("eof_read", false, ROUNDS)],
        "{report:#}"
    );
    // For people this is what names splice().
    let group = &report["groups"][0];
    assert_eq!(group["watched"], false, "{group:#}");
    assert!(group["last_read"].is_null(), "{group:#}");
}

#[test]
fn what_a_thread_of_io_urings_own_has_read_is_said_to_be_its() {
    if is_excused("gcc") {
        return;
    }
    let folder = folder();
    let binary = folder.path().join("uring");
    let binary = binary.to_str().unwrap();
    compile("gcc", &["-O2", "-g", "-o", binary, &source("uring.c")]);
    let report = watch_unseen(&[binary]);
    assert_eq!(
        counts(&report, None),
        [("eof_read", false, ROUNDS)],
        "{report:#}"
    );
    let group = &report["groups"][0];
    let summary = group["last_read"]["summary"].as_str().unwrap();
    assert!(summary.contains("thread of io_uring's"), "{group:#}");
    let notes = report["notes"].to_string();
    assert!(notes.contains("uses io_uring"), "{notes}");
}

#[test]
fn of_several_processes_the_one_with_the_most_is_taken_wherever_its_sockets_are() {
    /// Where no process is, so that only the kernel's own list leads to who listens on it.
    const ELSEWHERE: u16 = 7002;
    if is_excused("gcc") {
        return;
    }
    let folder = folder();
    let binary = compile_elsewhere(folder.path(), "hoarder");
    let ports = [PORT.to_string(), ELSEWHERE.to_string()];
    let words = [&*binary, &*ports[0], &*ports[1]];
    let servers: Vec<(Netns, Program)> = [2, 5, 1]
        .into_iter()
        .map(|leaks| {
            let namespace = Netns::new();
            let server = start_plain(&namespace, &words);
            ask(&namespace, &b"L".repeat(leaks));
            (namespace, server)
        })
        .collect();
    let pids: Vec<u32> = servers.iter().map(|(_, server)| server.pid()).collect();
    let report = |arguments: &[&str]| -> Value {
        let words = [&["where", "--output", "json"], arguments].concat();
        let output = run(AGENT, &words);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for which in [["--process", "hoarder"], ["--port", &*ports[1]]] {
        let report = report(&[&which[..], &["--seconds", "0.1"]].concat());
        let chosen = (&report["process"]["pid"], &report["process"]["close_wait"]);
        assert_eq!(
            (chosen.0.as_u64(), chosen.1.as_u64()),
            (Some(pids[1].into()), Some(5))
        );
        let others: Vec<(u64, u64)> = report["others"]
            .as_array()
            .unwrap()
            .iter()
            .map(|other| {
                let number = |field: &str| other[field].as_u64().unwrap();
                (number("pid"), number("close_wait"))
            })
            .collect();
        let expected = [(pids[0].into(), 2), (pids[2].into(), 1)];
        assert_eq!(others, expected, "{report:#}");
    }
    // Nothing may be loaded that would count them.
    let report = report(&["--process", "hoarder", "--seconds", "0"]);
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("3 of the processes that fit hold TCP sockets"),
        "{notes}"
    );
}
