//! What threads wait for.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
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
