//! What threads wait for.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tcpstate_agent::code_location::helper::Helpers;
use tempfile::TempDir;

use super::{BACKEND, line_of, source, start, start_plain};
use crate::{
    harness::{AGENT, Netns, Running, is_excused, run, within},
    programs::Program,
};

pub(super) const PYTHON: &str = "/usr/bin/python3";

pub(super) fn threads_now(pid: u32) -> Value {
    let pid = pid.to_string();
    let output = run(
        AGENT,
        &["where", "--pid", &pid, "--seconds", "0", "--output", "json"],
    );
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_pool_that_waits_for_its_backend_is_one_line_and_a_deadlock_another() {
    if is_excused("python3-requests") {
        return;
    }
    let namespace = Netns::new();
    let _backend = namespace.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, BACKEND)).unwrap());
    let backend = BACKEND.to_string();
    let server = start_plain(&namespace, &[PYTHON, &source("pool.py"), &backend]);
    within(Duration::from_secs(10), || {
        let report = threads_now(server.pid());
        let groups = report["threads"].as_array().unwrap();
        let wait = |call: &str, function: &str, line: u64, threads: u64| {
            let found = groups.iter().find(|group| {
                let frame = &group["place"]["frames"][0];
                group["call"] == call && frame["function"] == function && frame["line"] == line
            });
            match found {
                Some(group) if group["threads"] == threads && group["of"] == 9 => Ok(group.clone()),
                _ => Err(format!("{report:#}")),
            }
        };
        let line = line_of("pool.py", "return connection.recv(512)");
        let pool = wait("recvfrom", "query", line, 6)?;
        if pool["on"] != format!("connection to 127.0.0.1:{BACKEND} (ESTABLISHED)") {
            return Err(format!("{pool:#}"));
        }
        wait("futex", "transfer", line_of("pool.py", "with second:"), 2)?;
        Ok(())
    });
}

#[test]
fn the_process_is_never_stopped() {
    if is_excused("gcc") {
        return;
    }
    let namespace = Netns::new();
    let folder = super::folder();
    let binary = folder.path().join("leak");
    let binary = binary.to_str().unwrap();
    super::compile("gcc", &["-O2", "-pthread", "-o", binary, &source("leak.c")]);
    let server = start(&namespace, &[binary]);
    let report = threads_now(server.pid());
    assert_eq!(report["threads"][0]["call"], "accept", "{report:#}");
    // Nobody traces it, and nobody has: a tracer leaves its mark there, and a stop its state.
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
    assert!(status.contains("State:\tS "), "{status}");
}

/// A process whose tables loop for ever.
fn endless(folder: &TempDir) -> Program {
    let binary = folder.path().join("endless");
    let binary = binary.to_str().unwrap();
    super::compile("gcc", &["-O2", "-o", binary, &source("endless.c")]);
    start_plain(&Netns::new(), &[binary])
}

#[test]
fn tables_that_loop_for_ever_end_the_command_with_a_word() {
    if is_excused("gcc") {
        return;
    }
    let folder = super::folder();
    let server = endless(&folder);
    let pid = server.pid().to_string();
    let begun = Instant::now();
    let output = run(AGENT, &["where", "--pid", &pid, "--seconds", "0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = format!("the tables of {pid} could not be read in 30 s\n");
    assert!(said.ends_with(&expected), "{said}");
    assert!(output.stdout.is_empty());
    assert!(begun.elapsed() < Duration::from_mins(1));
}

#[test]
fn a_second_interrupt_ends_the_command_at_once_whatever_it_is_at() {
    if is_excused("gcc") {
        return;
    }
    let folder = super::folder();
    let server = endless(&folder);
    let pid = server.pid().to_string();
    let mut process = Running::start(
        Command::new(AGENT)
            .args(["where", "--pid", &pid, "--seconds", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    thread::sleep(Duration::from_secs(2));
    process.signal(Signal::INT);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(process.try_finish(), None);
    process.signal(Signal::INT);
    let status = within(Duration::from_secs(5), || {
        process.try_finish().ok_or("it runs on".to_owned())
    });
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn a_helper_is_ended_where_tables_loop_and_tells_of_others() {
    if is_excused("gcc") {
        return;
    }
    let folder = super::folder();
    let server = endless(&folder);
    let begun = Instant::now();
    let told = Helpers::with_program(AGENT).what_most_threads_wait_for(server.pid());
    assert_eq!(told, None);
    let took = begun.elapsed();
    let limits = Duration::from_secs(4)..Duration::from_secs(15);
    assert!(limits.contains(&took), "{took:?}");
    let sleeper = Running::start(Command::new("sleep").arg("1000"));
    let pid = sleeper.pid().as_raw_nonzero().get().cast_unsigned();
    within(Duration::from_secs(20), || {
        let told = Helpers::with_program(AGENT).what_most_threads_wait_for(pid);
        let is_told = told
            .as_ref()
            .is_some_and(|line| line.starts_with("1 of 1 threads waits in clock_nanosleep"));
        is_told.then_some(()).ok_or(format!("{told:?}"))
    });
}
