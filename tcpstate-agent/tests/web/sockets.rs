//! The sockets that are listened on: the agent's own, and those that systemd hands over.

use std::process::Command;

use crate::{client::curl, table::agent};

#[test]
fn without_sockets_from_systemd_there_is_no_start() {
    for variables in [
        &[][..],
        &[("LISTEN_FDS", "1")],
        &[("LISTEN_FDS", "0"), ("LISTEN_PID", "1")],
    ] {
        let output = agent()
            .arg("--web.systemd-socket")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("no socket activation file descriptors found"),
            "{stderr}"
        );
    }
}

/// The number of the process has to be known before it is one, so a shell tells it.
#[test]
fn descriptors_that_are_no_sockets_are_not_listened_on() {
    let script = format!(
        "export LISTEN_FDS=2 LISTEN_PID=$$; exec {} run --web.systemd-socket 3</dev/null 4</dev/zero",
        env!("CARGO_BIN_EXE_tcpstate-agent")
    );
    let output = Command::new("timeout")
        .args(["20", "sh", "-c", &script])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("no socket activation"), "{stderr}");
}

#[test]
fn version_is_told_as_exporters_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate-agent"))
        .arg("--version")
        .output();
    let output = output.unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let version = env!("CARGO_PKG_VERSION");
    let first = format!("tcpstate-agent, version {version} (branch: ");
    assert!(lines[0].starts_with(&first), "{text}");
    assert_eq!(lines.len(), 5, "{text}");
}

#[test]
fn an_answer_says_what_it_is_to_browsers() {
    let server = crate::server::Server::start(None);
    let folder = tempfile::tempdir().unwrap();
    let answer = curl(folder.path(), &format!("http://{}/", server.address), &[]);
    assert_eq!(
        answer.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
}
