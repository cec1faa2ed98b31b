//! The agent as a process: what it serves, how it starts and stops, what it leaves behind.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{ChildStderr, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    harness::{AGENT, Running, is_excused, require, run, within},
    page::Page,
    prometheus::{self, Prometheus},
};

/// How long an agent may take to start, on a busy host too.
const STARTED: Duration = Duration::from_secs(30);

/// A running agent on a port of its own.
pub(crate) struct Agent {
    process: Running,
    address: SocketAddr,
    said: thread::JoinHandle<String>,
}

/// A page of metrics.
pub(crate) struct Metrics(String);

/// How an agent ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

impl Metrics {
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The value of a series, which must be there and a whole number.
    pub(crate) fn value(&self, series: &str) -> u64 {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no {series} in\n{}", self.0))
            .parse()
            .unwrap()
    }
}

impl Agent {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// An agent with flags of `run`.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut command = Command::new(AGENT);
        command.arg("run").args(flags);
        Self::start_command(command)
    }

    /// An agent with the capabilities that `setpriv --bounding-set` leaves it.
    pub(crate) fn start_with_capabilities(set: &str) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", set, AGENT, "run"]);
        Self::start_command(command)
    }

    fn start_command(mut command: Command) -> Self {
        command
            .args(["--web.listen-address", "127.0.0.1:0"])
            .stderr(Stdio::piped());
        let mut process = Running::start(&mut command);
        let stderr = process.take_stderr();
        let (found, address) = mpsc::channel();
        let said = thread::spawn(move || listen_to(stderr, &found));
        let address = address
            .recv_timeout(STARTED)
            .expect("the agent does not listen");
        let agent = Self {
            process,
            address,
            said,
        };
        within(STARTED, || match agent.get("/-/ready") {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status} {body}")),
        });
        agent
    }

    /// Status and body of a page.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .into();
        let mut response = agent
            .get(format!("http://{}{path}", self.address))
            .call()
            .unwrap();
        let body = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), body)
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        Metrics(body)
    }

    /// The metrics, taken apart.
    pub(crate) fn page(&self) -> Page {
        Page::parse(self.metrics().0)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How much of its memory is resident.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kibibytes.parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn stop(self) -> Ended {
        self.end(Signal::TERM)
    }

    fn end(self, signal: Signal) -> Ended {
        self.process.signal(signal);
        let output = self.process.finish();
        Ended {
            code: output.status.code(),
            stderr: self.said.join().unwrap(),
        }
    }
}

/// Collects what the agent logs, and finds the address in it.
fn listen_to(stderr: ChildStderr, found: &mpsc::Sender<SocketAddr>) -> String {
    let mut all = String::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.unwrap();
        let address = line
            .split(' ')
            .find_map(|word| word.strip_prefix("address="));
        if let Some(address) = address {
            // A second address is of no interest.
            let _ = found.send(address.parse().unwrap());
        }
        all.push_str(&line);
        all.push('\n');
    }
    all
}

/// Programs and maps that are in the kernel, whosever they are.
fn loaded() -> BTreeSet<(&'static str, u64)> {
    let mut all = BTreeSet::new();
    for kind in ["prog", "map"] {
        let output = run("bpftool", &["--json", kind, "show"]);
        assert!(output.status.success(), "{output:?}");
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let ids = shown.as_array().unwrap().iter();
        all.extend(ids.map(|one| (kind, one["id"].as_u64().unwrap())));
    }
    all
}

/// Starts an agent, ends it, and checks that what it loaded is gone.
fn nothing_stays(signal: Signal) -> Ended {
    let before = loaded();
    let agent = Agent::start();
    let own: BTreeSet<_> = loaded().difference(&before).copied().collect();
    let programs = own.iter().filter(|(kind, _)| *kind == "prog").count();
    assert!(programs >= 2, "the agent has loaded only {own:?}");
    let ended = agent.end(signal);
    // The kernel frees them a moment after their last user is gone.
    within(Duration::from_secs(5), || {
        let left: Vec<_> = loaded().intersection(&own).copied().collect();
        require(left.is_empty(), format!("still there: {left:?}"))
    });
    ended
}

#[test]
fn the_pages_answer() {
    let agent = Agent::start();
    assert_eq!(agent.get("/-/healthy"), (200, "healthy\n".to_owned()));
    assert_eq!(agent.get("/-/ready"), (200, "ready\n".to_owned()));
    let (status, landing) = agent.get("/");
    assert_eq!(status, 200);
    assert!(landing.contains("href=\"/metrics\""), "{landing}");
    assert_eq!(agent.get("/no-such-page").0, 404);
    let metrics = agent.metrics();
    assert!(metrics.value(r#"tcpstate_program_up{program="tcp_transition"}"#) > 0);
    assert!(metrics.value(r#"tcpstate_program_up{program="tcp_count"}"#) > 0);
    assert!(metrics.value(r#"tcpstate_sockets{family="ipv4",state="listen"}"#) >= 1);
}

#[test]
fn requests_that_make_no_sense_are_answered_or_dropped_and_the_agent_goes_on() {
    let agent = Agent::start();
    for request in [
        &b"\x00\xff\xfe garbage\r\n\r\n"[..],
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        b"GET ",
        b"",
    ] {
        let mut stream = std::net::TcpStream::connect(agent.address).unwrap();
        stream.write_all(request).unwrap();
        // Fails where the agent has hung up already, which it may.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut answer = Vec::new();
        // A reset is an answer too.
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{request:?}");
    }
    assert_eq!(agent.get("/-/healthy").0, 200);
}

#[test]
fn promtool_has_no_complaint() {
    if is_excused("promtool") {
        return;
    }
    let agent = Agent::start();
    prometheus::check(agent.metrics().text());
}

#[test]
fn a_real_prometheus_scrapes_it() {
    if is_excused("prometheus") {
        return;
    }
    let agent = Agent::start();
    let prometheus = Prometheus::start(agent.address);
    within(Duration::from_secs(30), || {
        let up = prometheus.query("up{job=\"tcpstate\"}")?;
        let series = prometheus.query("count(tcpstate_sockets)")?;
        match (up[0]["value"][1].as_str(), series[0]["value"][1].as_str()) {
            (Some("1"), Some("20")) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn sigterm_and_sigint_end_it_with_0_and_nothing_stays_in_the_kernel() {
    for signal in [Signal::TERM, Signal::INT] {
        let ended = nothing_stays(signal);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}

#[test]
fn after_sigkill_nothing_stays_in_the_kernel() {
    assert_eq!(nothing_stays(Signal::KILL).code, None);
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let agent = Agent::start();
    let _idle = std::net::TcpStream::connect(agent.address).unwrap();
    let mut half_a_request = std::net::TcpStream::connect(agent.address).unwrap();
    half_a_request.write_all(b"GET /metrics HT").unwrap();
    assert_eq!(agent.stop().code, Some(0));
}

#[test]
fn an_address_in_use_is_named_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(AGENT, &["run", "--web.listen-address", &address]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for word in [&*address, "in use", "--web.listen-address"] {
        assert!(stderr.contains(word), "{stderr}");
    }
}

#[test]
fn without_capabilities_each_command_names_them_and_how_to_grant_them() {
    for command in ["run", "snapshot", "trace", "check"] {
        let mut arguments = vec!["--bounding-set", "-all", AGENT, command];
        if command == "run" {
            arguments.extend(["--web.listen-address", "127.0.0.1:0"]);
        }
        let output = run("setpriv", &arguments);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for word in ["CAP_BPF", "CAP_PERFMON", "run as root"] {
            assert!(said.contains(word), "{command} does not say {word}: {said}");
        }
    }
}

#[test]
fn capabilities_that_hold_in_another_user_namespace_only_are_told_apart() {
    let output = run("unshare", &["--user", "--map-root-user", AGENT, "check"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the host's user namespace"), "{said}");
}

#[test]
fn without_btf_each_command_says_what_kernel_it_needs() {
    for command in ["run", "snapshot", "trace", "check"] {
        let flags = if command == "run" {
            "--web.listen-address 127.0.0.1:0"
        } else {
            ""
        };
        let script =
            format!("mount -t tmpfs none /sys/kernel/btf && exec {AGENT} {command} {flags}");
        let output = run("unshare", &["--mount", "sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for word in ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"] {
            assert!(said.contains(word), "{command} does not say {word}: {said}");
        }
    }
}
