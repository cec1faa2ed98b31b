//! nginx, which closes what its upstream has closed, unless it hangs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{ANSWER, Blame, Program, STARTED, connect, free_port, listen, read_head};
use crate::{
    close_wait::{Look, SHOWN, ss},
    harness::{Netns, is_excused, require, within},
};
use tcpstate_agent::collect::close_wait::{Cause, Role, Verdict};

/// nginx with one worker, which keeps idle connections to one upstream.
struct Nginx {
    master: Option<Program>,
    _folder: TempDir,
    worker: rustix::process::Pid,
    port: u16,
}

impl Nginx {
    fn start(namespace: &Netns, upstream: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port(namespace);
        let path = folder.path().display();
        let config = folder.path().join("nginx.conf");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"))
            .concat();
        fs::write(
            &config,
            format!(
                "daemon off; worker_processes 1; user root; pid {path}/pid;\n\
                 error_log {path}/errors; events {{}}\n\
                 http {{\n{temporary}access_log off;\n\
                 upstream backend {{ server 127.0.0.1:{upstream}; keepalive 16; }}\n\
                 server {{ listen 127.0.0.1:{port}; location / {{\n\
                 proxy_pass http://backend; proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\"; }} }} }}\n"
            ),
        )
        .unwrap();
        let errors = folder.path().join("errors");
        let words = ["nginx", "-e", errors.to_str().unwrap(), "-c"];
        let words = [&words[..], &[config.to_str().unwrap()]].concat();
        let master = Program::start(namespace, &words);
        let children = format!("/proc/{0}/task/{0}/children", master.pid());
        let worker = within(STARTED, || {
            let children = fs::read_to_string(&children).map_err(|error| error.to_string())?;
            let first = children.split(' ').next().and_then(|pid| pid.parse().ok());
            let said = fs::read_to_string(&errors).unwrap_or_default();
            first
                .and_then(rustix::process::Pid::from_raw)
                .ok_or_else(|| format!("no worker: {said}"))
        });
        Self {
            master: Some(master),
            _folder: folder,
            worker,
            port,
        }
    }
}

impl Drop for Nginx {
    /// The master first, which would start another worker.
    fn drop(&mut self) {
        self.master = None;
        let _ = rustix::process::kill_process(self.worker, Signal::KILL);
    }
}

/// Idle connections of nginx to its upstream, at the upstream.
fn idle_connections(namespace: &Netns, nginx: &Nginx, upstream: &TcpListener) -> Vec<TcpStream> {
    let mut peers: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut peer = connect(namespace, nginx.port);
            peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            peer
        })
        .collect();
    let mut connections: Vec<TcpStream> = (0..5).map(|_| upstream.accept().unwrap().0).collect();
    for connection in &mut connections {
        let head = read_head(connection);
        assert!(!head.contains("Connection: close"), "{head}");
        connection.write_all(ANSWER).unwrap();
    }
    for peer in &mut peers {
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
    }
    connections
}

#[test]
fn nginx_whose_upstream_closes_idle_connections_closes_too_and_is_not_blamed() {
    if is_excused("nginx") {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let upstream = listen(&namespace);
    let port = upstream.local_addr().unwrap().port();
    let nginx = Nginx::start(&namespace, port);
    let connections = idle_connections(&namespace, &nginx, &upstream);
    for mut connection in connections {
        connection.shutdown(Shutdown::Write).unwrap();
        // It closes at once, and says so.
        connection
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    }
    drop(upstream);
    // A dead upstream is nothing that nginx could keep a socket for.
    let mut peer = connect(&namespace, nginx.port);
    peer.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("502 Bad Gateway"), "{answer}");
    drop(peer);
    within(SHOWN, || {
        let (truth, groups) = (ss(&namespace), look.groups(&namespace));
        require(
            truth.is_empty() && groups.is_empty(),
            format!("{truth:?}, {groups:?}"),
        )
    });
}

#[test]
fn nginx_that_hangs_is_blamed_until_it_goes_on() {
    if is_excused("nginx") {
        return;
    }
    let namespace = Netns::new();
    let look = Look::new();
    let upstream = listen(&namespace);
    let port = upstream.local_addr().unwrap().port();
    let nginx = Nginx::start(&namespace, port);
    let connections = idle_connections(&namespace, &nginx, &upstream);
    rustix::process::kill_process(nginx.worker, Signal::STOP).unwrap();
    for connection in &connections {
        connection.shutdown(Shutdown::Write).unwrap();
    }
    let blame = Blame {
        pid: nginx.worker.as_raw_nonzero().get().cast_unsigned(),
        role: Role::Client,
        port,
        cause: Cause::FinUnread,
        verdict: Verdict::Stopped,
        sockets: 5,
    };
    assert_eq!(blame.is_told(&look, &namespace), "nginx");
    rustix::process::kill_process(nginx.worker, Signal::CONT).unwrap();
    within(SHOWN, || {
        let groups = look.groups(&namespace);
        require(groups.is_empty(), format!("{groups:?}"))
    });
}
