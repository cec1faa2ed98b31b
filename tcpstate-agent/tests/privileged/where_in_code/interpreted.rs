//! Python, Java and Node.

use std::process::Command;

use super::{
    ROUNDS, assert_blamed, compile, folder, functions, line_at, line_of, source, start,
    watch_leaking,
};
use crate::harness::{Netns, is_excused};

/// The one that Debian's packages are for.
const PYTHON: &str = "/usr/bin/python3";
const PYTHON_PACKAGE: &str = "python3-requests";

/// Other versions of Python, where they are installed. Which of them were checked is in
/// docs/where.md.
fn pythons() -> Vec<String> {
    let minors = 8..=14;
    let mut found = vec![PYTHON.to_owned()];
    for minor in minors {
        let program = format!("python3.{minor}");
        let shown = Command::new(&program)
            .args(["-c", "import sys; print(sys.executable)"])
            .output();
        if shown.is_ok_and(|output| output.status.success()) {
            found.push(program);
        }
    }
    found
}

#[test]
fn python_with_threads_is_blamed_by_function_and_line() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    for python in pythons() {
        let namespace = Netns::new();
        let server = start(&namespace, &[&python, &source("leak.py")]);
        let report = watch_leaking(&namespace, &server, b"LOCD", &[]);
        assert_blamed(&report, "last_read", "handle_leak", "handle_ok", ROUNDS);
        assert_blamed(&report, "last_read", "fetch_leak", "fetch_ok", ROUNDS);
        assert_blamed(&report, "opened", "fetch_leak", "fetch_ok", ROUNDS);
        assert_blamed(&report, "first_read", "serve", "handle_ok", 2 * ROUNDS);
        let line = line_of("leak.py", "def handle_leak") + 1;
        assert_eq!(
            line_at(&report, "last_read", "handle_leak"),
            line,
            "{python}"
        );
    }
}

#[test]
fn asyncio_is_blamed_where_it_connects_and_reads_are_the_event_loops() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let namespace = Netns::new();
    let server = start(&namespace, &[PYTHON, &source("leak_asyncio.py")]);
    let report = watch_leaking(&namespace, &server, b"LOCD", &[]);
    assert_blamed(&report, "opened", "fetch_leak", "fetch_ok", ROUNDS);
    assert_blamed(
        &report,
        "last_read",
        "_SelectorSocketTransport._read_ready",
        "handle_ok",
        2 * ROUNDS,
    );
}

#[test]
fn java_is_blamed_by_class_where_it_writes_a_map_of_its_code() {
    if is_excused("javac") {
        return;
    }
    let folder = folder();
    let classes = folder.path().to_str().unwrap();
    compile("javac", &["-d", classes, &source("Leak.java")]);
    let namespace = Netns::new();
    let words = [
        "java",
        "-Xcomp",
        "-XX:+PreserveFramePointer",
        "-XX:-Inline",
        "-cp",
        classes,
        "Leak",
    ];
    let server = start(&namespace, &words);
    // So that all there is to compile is compiled.
    let warm = watch_leaking(&namespace, &server, b"OD", &[]);
    assert_eq!(warm["groups"].as_array().unwrap().len(), 0, "{warm:#}");
    compile("jcmd", &[&server.pid().to_string(), "Compiler.perfmap"]);
    let report = watch_leaking(&namespace, &server, b"LO", &[]);
    let groups = report["groups"].as_array().unwrap();
    let names: Vec<&str> = groups
        .iter()
        .flat_map(|group| functions(group, "last_read"))
        .collect();
    assert!(
        names.iter().any(|name| name.contains("Leak.readAll")),
        "{report:#}"
    );
    assert!(
        !names.iter().any(|name| name.contains("handleOk")),
        "{report:#}"
    );
}

#[test]
fn node_is_said_not_to_be_told_by_its_stacks() {
    if is_excused("node") {
        return;
    }
    let namespace = Netns::new();
    let server = start(&namespace, &["node", &source("leak.js")]);
    let report = watch_leaking(&namespace, &server, b"LOCD", &[]);
    let sockets: u64 = report["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["sockets"].as_u64().unwrap())
        .sum();
    assert_eq!(sockets, 2 * ROUNDS, "{report:#}");
    let notes = report["notes"].to_string();
    assert!(notes.contains("Node"), "{report:#}");
}
