//! C, C++, Rust and Go.

use std::{fs, process::Command, time::Duration};

use serde_json::Value;

use super::{
    ROUNDS, assert_blamed, compile, compile_leak, folder, functions, line_at, line_of, source,
    start, watch_leaking, watch_leaking_slowly,
};
use crate::harness::{Netns, is_excused};

/// Compiles a program, has it leak, and checks whom the report blames.
fn blamed(compiler: &str, arguments: &[&str], commands: &[u8]) -> Option<Value> {
    blamed_slowly(compiler, arguments, commands, Duration::ZERO)
}

/// The same, with a pause after each round.
fn blamed_slowly(
    compiler: &str,
    arguments: &[&str],
    commands: &[u8],
    pause: Duration,
) -> Option<Value> {
    // rustc needs a linker.
    if is_excused(if compiler == "rustc" { "gcc" } else { compiler }) {
        return None;
    }
    let folder = folder();
    let binary = folder.path().join("leak");
    let binary = binary.to_str().unwrap();
    let arguments: Vec<&str> = arguments
        .iter()
        .map(|argument| if *argument == "OUT" { binary } else { argument })
        .collect();
    compile(compiler, &arguments);
    let namespace = Netns::new();
    let server = start(&namespace, &[binary]);
    let report = watch_leaking_slowly(&namespace, &server, commands, &[], pause);
    assert_eq!(report["schema_version"], 1);
    Some(report)
}

fn assert_c(report: &Value) {
    assert_blamed(report, "last_read", "handle_leak", "handle_ok", ROUNDS);
    assert_blamed(report, "last_read", "fetch_leak", "fetch_ok", ROUNDS);
    assert_blamed(report, "opened", "fetch_leak", "fetch_ok", ROUNDS);
    assert_blamed(report, "first_read", "serve", "handle_ok", 2 * ROUNDS);
}

#[test]
fn c_without_frame_pointers_is_blamed_by_function_file_and_line() {
    let source = source("leak.c");
    let arguments = [
        "-O2",
        "-g",
        "-fomit-frame-pointer",
        "-pthread",
        "-o",
        "OUT",
        &source,
    ];
    let Some(report) = blamed("gcc", &arguments, b"LOCD") else {
        return;
    };
    assert_c(&report);
    let line = line_of("leak.c", "APART int handle_leak");
    assert_eq!(line_at(&report, "last_read", "handle_leak"), line);
    let line = line_of("leak.c", "if (connect(");
    assert_eq!(line_at(&report, "opened", "dial"), line);
    for group in report["groups"].as_array().unwrap() {
        assert_eq!(group["cause"], "eof_read");
        assert_eq!(group["end_was_read"], true);
        assert_eq!(group["last_read"]["complete"], true, "{group:#}");
    }
    let watch = &report["watch"];
    assert_eq!(watch["entered_close_wait"], 6 * ROUNDS);
    assert_eq!(watch["left_close_wait"], 4 * ROUNDS);
    assert_eq!(watch["events"]["connects"], 2 * ROUNDS);
    assert_eq!(watch["samples"], watch["samples_wanted"]);
}

#[test]
fn c_with_frame_pointers_is_blamed() {
    let source = source("leak.c");
    let arguments = [
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        "-pthread",
        "-o",
        "OUT",
        &source,
    ];
    if let Some(report) = blamed("gcc", &arguments, b"LOCD") {
        assert_c(&report);
    }
}

#[test]
fn a_stack_that_is_longer_than_a_copy_is_copied_further_the_next_time() {
    let source = source("leak.c");
    let arguments = ["-O2", "-g", "-pthread", "-o", "OUT", &source];
    // Between two rounds it has time to learn that it takes more.
    let pause = Duration::from_millis(200);
    let Some(report) = blamed_slowly("gcc", &arguments, b"P", pause) else {
        return;
    };
    let groups = report["groups"].as_array().unwrap();
    let named = groups.iter().filter(|group| {
        functions(group, "last_read").contains(&"handle_deep")
            && group["last_read"]["complete"] == true
    });
    let sockets: u64 = named.map(|group| group["sockets"].as_u64().unwrap()).sum();
    assert!(sockets >= ROUNDS - 1, "{report:#}");
}

#[test]
fn static_musl_is_blamed_though_it_has_no_tables() {
    let source = source("leak.c");
    let arguments = ["-O2", "-g", "-static", "-pthread", "-o", "OUT", &source];
    if let Some(report) = blamed("musl-gcc", &arguments, b"LOCD") {
        assert_blamed(&report, "last_read", "handle_leak", "handle_ok", ROUNDS);
        assert_blamed(&report, "last_read", "fetch_leak", "fetch_ok", ROUNDS);
    }
}

#[test]
fn a_stripped_program_is_blamed_by_addresses_that_its_symbols_would_name() {
    if is_excused("gcc") {
        return;
    }
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (whole, stripped) = (path("whole"), path("stripped"));
    compile_leak(&whole);
    compile("strip", &["-o", &stripped, &whole]);
    let namespace = Netns::new();
    let server = start(&namespace, &[&stripped]);
    let report = watch_leaking(&namespace, &server, b"LO", &[]);
    let groups = report["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1, "{report:#}");
    let frames = groups[0]["last_read"]["frames"].as_array().unwrap();
    let own: Vec<u64> = frames
        .iter()
        .filter(|frame| frame["module"] == *stripped)
        .map(|frame| {
            assert!(frame["function"].is_null(), "{frame}");
            frame["offset"].as_u64().unwrap()
        })
        .collect();
    let names: Vec<String> = own
        .iter()
        .map(|offset| {
            let output = Command::new("addr2line")
                .args(["-f", "-e", &whole, &format!("{offset:#x}")])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines().next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, ["read_all", "handle_leak", "serve"]);
}

#[test]
fn a_stripped_program_that_has_kept_its_symbols_packed_is_blamed_by_name() {
    if is_excused("gcc") || is_excused("xz") {
        return;
    }
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (whole, kept, stripped) = (path("whole"), path("kept"), path("stripped"));
    compile_leak(&whole);
    // As Fedora's packages are made.
    compile("objcopy", &["--only-keep-debug", &whole, &kept]);
    compile("objcopy", &["--strip-debug", &kept]);
    compile("xz", &[&kept]);
    compile("strip", &["-o", &stripped, &whole]);
    let section = format!(".gnu_debugdata={kept}.xz");
    compile("objcopy", &["--add-section", &section, &stripped]);
    let namespace = Netns::new();
    let server = start(&namespace, &[&stripped]);
    let report = watch_leaking(&namespace, &server, b"LO", &[]);
    assert_blamed(&report, "last_read", "handle_leak", "handle_ok", ROUNDS);
}

#[test]
fn cpp_is_blamed_by_names_with_class_and_namespace() {
    let source = source("leak.cc");
    let arguments = ["-O2", "-g", "-pthread", "-o", "OUT", &source];
    let Some(report) = blamed("g++", &arguments, b"LOCD") else {
        return;
    };
    assert_c_names(&report, "app::Handler<int>::handle_leak", "app::fetch_leak");
}

#[test]
fn rust_is_blamed_with_inlined_functions() {
    let source = source("leak.rs");
    let arguments = ["--edition", "2021", "-O", "-g", "-o", "OUT", &source];
    let Some(report) = blamed("rustc", &arguments, b"LOCD") else {
        return;
    };
    assert_c_names(&report, "leak::handle_leak", "leak::fetch_leak");
    let groups = report["groups"].as_array().unwrap();
    let frames = groups[0]["last_read"]["frames"].as_array().unwrap();
    assert!(
        frames.iter().any(|frame| frame["inlined"] == true),
        "{frames:#?}"
    );
}

#[test]
fn go_is_blamed_to_the_start_of_the_goroutine() {
    let source = source("leak.go");
    let Some(report) = blamed("go", &["build", "-o", "OUT", &source], b"LOCD") else {
        return;
    };
    assert_blamed(
        &report,
        "last_read",
        "main.handleLeak",
        "main.handleOk",
        ROUNDS,
    );
    assert_blamed(
        &report,
        "last_read",
        "main.fetchLeak",
        "main.fetchOk",
        ROUNDS,
    );
    assert_blamed(&report, "opened", "main.fetchLeak", "main.fetchOk", ROUNDS);
    for group in report["groups"].as_array().unwrap() {
        let outermost = functions(group, "last_read").pop().unwrap().to_owned();
        assert!(outermost.starts_with("runtime.goexit"), "{group:#}");
    }
    let line = line_of("leak.go", "func handleLeak") + 1;
    assert_eq!(line_at(&report, "last_read", "main.handleLeak"), line);
}

#[test]
fn go_without_symbols_is_blamed_by_the_table_that_it_keeps_itself() {
    let source = source("leak.go");
    for arguments in [
        &["build", "-ldflags", "-s -w", "-o", "OUT", &source][..],
        &[
            "build",
            "-buildmode=pie",
            "-ldflags",
            "-s -w",
            "-o",
            "OUT",
            &source,
        ],
    ] {
        let Some(report) = blamed("go", arguments, b"LOCD") else {
            return;
        };
        for (wanted, other) in [
            ("main.handleLeak", "main.handleOk"),
            ("main.fetchLeak", "main.fetchOk"),
        ] {
            assert_blamed(&report, "last_read", wanted, other, ROUNDS);
        }
        assert_blamed(&report, "opened", "main.fetchLeak", "main.fetchOk", ROUNDS);
        let line = line_of("leak.go", "func handleLeak") + 1;
        assert_eq!(line_at(&report, "last_read", "main.handleLeak"), line);
    }
}

fn assert_c_names(report: &Value, handle: &str, fetch: &str) {
    assert_blamed(report, "last_read", handle, "handle_ok", ROUNDS);
    assert_blamed(report, "last_read", fetch, "fetch_ok", ROUNDS);
    assert_blamed(report, "opened", fetch, "fetch_ok", ROUNDS);
}

#[test]
fn a_symbol_that_would_steer_the_terminal_is_spelled_out() {
    if is_excused("gcc") {
        return;
    }
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = fs::read_to_string(source("leak.c")).unwrap();
    // No assembler takes such a name: it is written into the file's table of names.
    fs::write(path("hostile.c"), text.replace("read_all", "r_x2read_all")).unwrap();
    let binary = path("hostile");
    compile(
        "gcc",
        &["-O2", "-pthread", "-o", &binary, &path("hostile.c")],
    );
    let mut bytes = fs::read(&binary).unwrap();
    let name = b"r_x2read_all";
    while let Some(at) = bytes.windows(name.len()).position(|part| part == name) {
        bytes[at..at + 4].copy_from_slice(b"\x1b[2J");
    }
    fs::write(&binary, bytes).unwrap();
    let namespace = Netns::new();
    let server = start(&namespace, &[&binary]);
    let report = watch_leaking(&namespace, &server, b"L", &[]);
    let text = report.to_string();
    assert!(text.contains(r"\\x1b[2Jread_all"), "{report:#}");
    assert!(!text.contains("\\u001b") && !text.contains('\x1b'));
}
