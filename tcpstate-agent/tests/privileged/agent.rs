//! The agent as a process: what it serves, how it starts and stops, what it leaves behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
    process::{ChildStderr, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    harness::{AGENT, Running, is_excused, require, run, within},
    page::Page,
    prometheus::{self, Prometheus},
};

/// How long an agent may take to start, on a busy host too.
const STARTED: Duration = Duration::from_secs(90);

/// A running agent on a port of its own.
pub(crate) struct Agent {
    process: Running,
    address: SocketAddr,
    said: thread::JoinHandle<String>,
}

/// A page of metrics.
pub(crate) struct Metrics(String);

/// What an agent takes of the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resources {
    /// Of its own, in bytes.
    pub(crate) memory: u64,
    pub(crate) descriptors: u64,
    /// Programs and maps.
    pub(crate) kernel_objects: u64,
}

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

    /// An agent that finds these in its environment.
    pub(crate) fn start_in<'a>(environment: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut command = Command::new(AGENT);
        command.arg("run").envs(environment);
        Self::start_command(command)
    }

    /// An agent that may have so many descriptors, whatever it does.
    pub(crate) fn start_with_descriptors(limit: u32) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {limit} && exec {AGENT} run \"$@\"");
        command.args(["-c", &script, "sh"]);
        Self::start_command(command)
    }

    pub(crate) fn start_command(mut command: Command) -> Self {
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

    /// How much memory it has of its own, without its program, whose pages come and go with the
    /// host's cache.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("RssAnon:"));
        let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kibibytes.parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn resources(&self) -> Resources {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap();
        let count = |count: usize| u64::try_from(count).unwrap();
        Resources {
            memory: self.anonymous_bytes(),
            descriptors: count(descriptors.count()),
            kernel_objects: count(self.loaded().len()),
        }
    }

    /// Programs and maps that it holds, and the maps of its programs, as [`loaded`] has them.
    fn loaded(&self) -> BTreeSet<(&'static str, u64)> {
        let mut own = BTreeSet::new();
        let folder = format!("/proc/{}/fdinfo", self.process.pid());
        for descriptor in fs::read_dir(folder).unwrap() {
            // It may have been closed by now.
            let text = fs::read_to_string(descriptor.unwrap().path()).unwrap_or_default();
            for line in text.lines() {
                // Links have the numbers of their programs.
                for (field, kind) in [("prog_id:", "prog"), ("map_id:", "map")] {
                    let number = line.strip_prefix(field);
                    own.extend(number.map(|number| (kind, number.trim().parse().unwrap())));
                }
            }
        }
        for (id, shown) in loaded() {
            if own.contains(&id)
                && let Some(maps) = shown["map_ids"].as_array()
            {
                own.extend(maps.iter().map(|map| ("map", map.as_u64().unwrap())));
            }
        }
        own
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        self.process.pid()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
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

/// Programs and maps that are in the kernel, whosever they are, by kind and number. Numbers are
/// not given out again until all have been.
fn loaded() -> BTreeMap<(&'static str, u64), Value> {
    let mut all = BTreeMap::new();
    for kind in ["prog", "map"] {
        let output = run("bpftool", &["--json", kind, "show"]);
        assert!(output.status.success(), "{output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        let shown = shown.as_array().unwrap().iter();
        all.extend(shown.map(|one| ((kind, one["id"].as_u64().unwrap()), one.clone())));
    }
    all
}

/// Starts an agent, ends it, and checks that what it loaded is gone.
fn nothing_stays(signal: Signal) -> Ended {
    let agent = Agent::start();
    let own = agent.loaded();
    for (kind, at_least) in [("prog", 2), ("map", 2)] {
        let count = own.iter().filter(|(of, _)| *of == kind).count();
        assert!(count >= at_least, "the agent has loaded only {own:?}");
    }
    let ended = agent.end(signal);
    // The kernel frees them a moment after their last user is gone.
    within(Duration::from_secs(15), || {
        let mut left = loaded();
        left.retain(|one, _| own.contains(one));
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
    assert!(metrics.value(r#"tcpstate_program_up{program="read_table"}"#) > 0);
    assert!(metrics.value(r#"tcpstate_sockets{family="ipv4",state="listen"}"#) >= 1);
}

#[test]
fn a_socket_that_systemd_hands_over_is_served() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    // To be inherited.
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    let script = format!(
        "exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec {AGENT} run --web.systemd-socket \"$@\"",
        socket.as_raw_fd()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]);
    let agent = Agent::start_command(command);
    assert_eq!(agent.address, socket.local_addr().unwrap());
    assert_eq!(agent.get("/-/healthy").0, 200);
}

#[test]
fn requests_that_make_no_sense_are_answered_or_dropped_and_the_agent_goes_on() {
    let agent = Agent::start();
    for request in [
        &b"\x00\xff\xfe garbage\r\n\r\n"[..],
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: a\r\n\r\nabc",
        b"GET ",
        b"",
    ] {
        let mut stream = std::net::TcpStream::connect(agent.address).unwrap();
        stream.write_all(request).unwrap();
        // Fails where the agent has hung up already, which it may.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
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
    within(Duration::from_secs(90), || {
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

/// Kernels before 5.11 charge maps to a limit, which the agent raises where it may.
#[test]
fn a_limit_of_locked_memory_is_named_where_the_kernel_has_one() {
    let script = format!("ulimit -l 64 && exec setpriv --bounding-set -sys_resource {AGENT} check");
    let output = run("sh", &["-c", &script]);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release
        .split(|character: char| !character.is_ascii_digit())
        .take(2)
        .map(|number| number.parse().unwrap())
        .collect();
    if numbers[..] < [5, 11][..] {
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("locked memory"), "{said}");
    } else {
        assert_eq!(output.status.code(), Some(0), "{said}");
    }
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
