//! What is not where one looks first: sockets of network namespaces that no thread is in, and reads
//! that no hook sees.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    PORT, ROUNDS, Where, assert_blamed, await_close_wait, compile, folder, source, start,
    start_plain,
    waiting::{PYTHON, threads_now},
};
use crate::harness::{Netns, is_excused};

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

#[test]
fn sockets_of_a_namespace_that_no_thread_is_in_are_blamed() {
    if is_excused("gcc") {
        return;
    }
    let folder = folder();
    let binary = folder.path().join("elsewhere");
    let binary = binary.to_str().unwrap();
    compile("gcc", &["-O2", "-g", "-o", binary, &source("elsewhere.c")]);
    let namespace = Netns::new();
    let server = start_plain(&namespace, &[binary, &PORT.to_string()]);
    let ask = |commands: &[u8]| {
        namespace.enter(|| {
            for command in commands {
                let mut asked = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).unwrap();
                asked.write_all(&[*command]).unwrap();
                // Until it is done.
                asked.read_to_end(&mut Vec::new()).unwrap();
            }
        });
    };
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
fn reads_of_mptcp_connections_are_counted_and_in_no_group() {
    if is_excused("python3-requests") {
        return;
    }
    let namespace = Netns::new();
    let server = start(&namespace, &[PYTHON, &source("mptcp.py")]);
    let watching = Where::start(&["--pid", &server.pid().to_string()]);
    let peers: Vec<Socket> = namespace.enter(|| {
        let send = |_| {
            let mptcp = Some(Protocol::from(libc::IPPROTO_MPTCP));
            let mut peer = Socket::new(Domain::IPV4, Type::STREAM, mptcp).unwrap();
            let server = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
            peer.connect(&server.into()).unwrap();
            peer.write_all(b"some data").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        };
        (0..ROUNDS).map(send).collect()
    });
    thread::sleep(Duration::from_millis(1_500));
    let report = watching.finish();
    drop(peers);
    assert_eq!(report["groups"].as_array().unwrap().len(), 0, "{report:#}");
    let watch = &report["watch"];
    let counted = watch["mptcp_reads"].as_u64().unwrap();
    // What shows reads elsewhere is TCP's own.
    let expected = match watch["reads_by"].as_str().unwrap() {
        "tcp_recvmsg" => 0..=0,
        _ => ROUNDS * 2..=ROUNDS * 4,
    };
    assert!(expected.contains(&counted), "{report:#}");
}
