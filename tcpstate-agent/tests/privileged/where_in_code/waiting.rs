//! What threads wait for.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{BACKEND, Server, line_of, source};
use crate::harness::{AGENT, Netns, is_excused, run, within};

const PYTHON: &str = "/usr/bin/python3";

fn threads_now(pid: u32) -> Value {
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
    let server = Server::start_plain(&namespace, &[PYTHON, &source("pool.py"), &backend]);
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
    let server = Server::start(&namespace, &[binary]);
    let report = threads_now(server.pid());
    assert_eq!(report["threads"][0]["call"], "accept", "{report:#}");
    // Nobody traces it, and nobody has: a tracer leaves its mark there, and a stop its state.
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
    assert!(status.contains("State:\tS "), "{status}");
}

#[test]
fn tables_that_loop_for_ever_end_the_command_with_a_word() {
    if is_excused("gcc") {
        return;
    }
    let folder = super::folder();
    let binary = folder.path().join("endless");
    let binary = binary.to_str().unwrap();
    super::compile("gcc", &["-O2", "-o", binary, &source("endless.c")]);
    let server = Server::start_plain(&Netns::new(), &[binary]);
    let pid = server.pid().to_string();
    let begun = Instant::now();
    let output = run(AGENT, &["where", "--pid", &pid, "--seconds", "0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = format!("the tables of {pid} could not be read in 30 s\n");
    assert!(said.ends_with(&expected), "{said}");
    assert!(output.stdout.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_helper_is_ended_by_its_limit_of_cpu_time_where_tables_loop() {
    if is_excused("gcc") {
        return;
    }
    let folder = super::folder();
    let binary = folder.path().join("endless");
    let binary = binary.to_str().unwrap();
    super::compile("gcc", &["-O2", "-o", binary, &source("endless.c")]);
    let server = Server::start_plain(&Netns::new(), &[binary]);
    let mut helpers = tcpstate_agent::code_location::helper::Helpers::with_program(AGENT);
    let begun = Instant::now();
    assert_eq!(helpers.what_most_threads_wait_for(server.pid()), None);
    let took = begun.elapsed();
    let limits = Duration::from_secs(4)..Duration::from_secs(15);
    assert!(limits.contains(&took), "{took:?}");
    // One that has sane tables is told of by the same way.
    let own = helpers.what_most_threads_wait_for(std::process::id());
    assert!(own.is_some_and(|line| line.contains(" wait")));
}
