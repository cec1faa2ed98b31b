//! Python, Java and Node.

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::process::Signal;

use super::{
    ROUNDS, assert_blamed, compile, folder, functions, line_at, line_of, source, start,
    watch_leaking,
};
use crate::harness::{Netns, is_excused, within};

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
fn of_a_python_stack_that_is_deeper_than_is_followed_it_is_said() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    for python in pythons() {
        let namespace = Netns::new();
        let server = start(&namespace, &[&python, &source("leak.py")]);
        let report = watch_leaking(&namespace, &server, b"LP", &[]);
        for group in report["groups"].as_array().unwrap() {
            let is_deep = functions(group, "last_read").contains(&"handle_deep");
            assert_eq!(
                group["last_read"]["complete"], !is_deep,
                "{python}: {group:#}"
            );
        }
        assert_blamed(&report, "last_read", "handle_deep", "handle_ok", ROUNDS);
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
    // What the documentation says to do instead.
    let folder = folder();
    let script = folder.path().join("sockets.mjs");
    fs::write(&script, documented_script()).unwrap();
    server.signal(Signal::USR1);
    let told = within(Duration::from_secs(20), || {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", namespace.way_in()))
            .args(["node", "--experimental-websocket"])
            .arg(&script)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(output.stdout).ok_or(said)
    });
    let told = String::from_utf8(told).unwrap();
    let line = line_of("leak.js", "kept.push(socket)");
    let place = format!("leak.js:{line}");
    let places = told.lines().filter(|said| said.contains(&place)).count();
    assert_eq!(places as u64, 2 * ROUNDS, "{told}");
    let other = format!("leak.js:{}", line_of("leak.js", "socket.end()"));
    assert!(!told.contains(&other), "{told}");
}

/// The script for Node in docs/where.md.
fn documented_script() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/where.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, behind) = page.split_once("```js\n").unwrap();
    let (script, _) = behind.split_once("```").unwrap();
    script.to_owned()
}
