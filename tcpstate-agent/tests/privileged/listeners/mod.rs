//! Listening sockets: their queues, half-open connections, connections, owners, and handshakes.
//!
//! The truth is what `ss` shows in namespaces that the tests made, and what came over a TUN
//! device. Each test has ports of its own: series do not tell namespaces apart.

mod accept;
mod addresses;
mod come_and_go;
mod flood;
mod handshakes;
mod owners;
mod synack;

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tcpstate_agent::{
    collect::listeners::{ListeningReport, ReportListener},
    engine::Watch,
    exposition::MetricsPage,
    serve::HttpReading,
};
use tcpstate_common::TcpState;

use crate::{
    harness::{self, Netns, census_of, require},
    page::Page,
};

const ACCEPT_QUEUE: &str = "tcpstate_listener_accept_queue";
const ACCEPT_LIMIT: &str = "tcpstate_listener_accept_queue_limit";
const WORST: &str = "tcpstate_listener_accept_queue_worst";
const SYN_LIMIT: &str = "tcpstate_listener_syn_queue_limit";
const SYN_RECV: &str = "tcpstate_listener_syn_recv";
const SOCKETS: &str = "tcpstate_listener_sockets";
const DROPS: &str = "tcpstate_listener_drops_total";
const RESENT: &str = "tcpstate_synack_retransmits_total";

/// Within what a listener is shown as it is: a snapshot of its namespace, or a walk over all
/// processes, on a busy host too, where a namespace may have to be tried again.
const SHOWN: Duration = Duration::from_secs(150);

/// A watch and its metrics.
struct Look {
    watch: Arc<Watch>,
    metrics: MetricsPage,
}

impl Look {
    fn new() -> Self {
        Self::through(harness::watch())
    }

    /// Takes snapshots one after the other.
    fn busy() -> Self {
        Self::through(harness::busy_watch())
    }

    fn through(watch: Watch) -> Self {
        let watch = Arc::new(watch);
        Self {
            metrics: MetricsPage::new(Arc::clone(&watch)),
            watch,
        }
    }

    fn page(&self) -> Page {
        Page::parse(self.metrics.render(&HttpReading::default()).unwrap())
    }

    /// What `listeners` would print of one namespace, owners found afresh.
    fn report(&self, namespace: &Netns) -> Vec<ReportListener> {
        let found = self.watch.listeners().expect("listeners cannot be told");
        let mut listeners = ListeningReport::new(&found).listeners;
        let inode = namespace.inode();
        listeners.retain(|listener| listener.namespace == inode);
        listeners
    }

    /// The one listener of a port.
    fn listener(&self, namespace: &Netns, port: u16) -> Result<ReportListener, String> {
        let mut listeners = self.report(namespace);
        listeners.retain(|listener| listener.address.port() == port);
        match listeners.pop() {
            Some(listener) if listeners.is_empty() => Ok(listener),
            other => Err(format!("port {port}: {other:?} and {listeners:?}")),
        }
    }

    /// Half-open connections that the census of a namespace has.
    fn half_open(&self, namespace: &Netns) -> u64 {
        let reading = self.watch.read().unwrap();
        census_of(&reading, namespace.inode()).in_state(TcpState::SynRecv)
    }
}

/// Writes a setting of a namespace, below `/proc/sys/net`.
fn set(namespace: &Netns, setting: &str, value: u32) {
    namespace.enter(|| fs::write(format!("/proc/sys/net/{setting}"), value.to_string()).unwrap());
}

/// Listens on every address of both families.
fn listen_dual(namespace: &Netns, port: u16) -> TcpListener {
    namespace.enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        socket.bind(&any.into()).unwrap();
        socket.listen(4096).unwrap();
        socket.into()
    })
}

/// A listening socket as `ss` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    queue: u64,
    limit: u64,
    drops: u64,
}

/// The listening sockets of a port.
fn ss_listeners(namespace: &Netns, port: u16) -> Vec<Shown> {
    let filter = format!("sport = :{port}");
    let arguments = [
        "--tcp",
        "--numeric",
        "--no-header",
        "--memory",
        "state",
        "listening",
        &filter,
    ];
    let text = namespace.command("ss", &arguments);
    // What belongs to a socket follows on a line of its own.
    let sockets = text.replace("\n\t", " ");
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let mut number = || words.next()?.parse().ok();
        let (queue, limit) = (number()?, number()?);
        let memory = line.split_once("skmem:(")?.1.split_once(')')?.0;
        let drops = memory.split(',').find_map(|part| part.strip_prefix('d'))?;
        Some(Shown {
            queue,
            limit,
            drops: drops.parse().ok()?,
        })
    };
    let parse = |line| parse(line).unwrap_or_else(|| panic!("{line:?} is no listener"));
    sockets.lines().map(parse).collect()
}

/// The one of a port at which one socket listens.
fn ss_listener(namespace: &Netns, port: u16) -> Shown {
    let listeners = ss_listeners(namespace, port);
    let [listener] = listeners[..] else {
        panic!("{listeners:?}");
    };
    listener
}

/// The lines that `ss` has for the connections of a port in a state.
fn ss_connections(namespace: &Netns, state: &str, port: u16) -> Vec<String> {
    let filter = format!("sport = :{port}");
    let arguments = [
        "--tcp",
        "--numeric",
        "--no-header",
        "--options",
        "state",
        state,
        &filter,
    ];
    let text = namespace.command("ss", &arguments);
    text.lines().map(str::to_owned).collect()
}

/// How many half-open connections `ss` shows.
fn ss_half_open(namespace: &Netns, port: u16) -> u64 {
    let lines = ss_connections(namespace, "syn-recv", port);
    lines.len().try_into().unwrap()
}

/// How often `ss` shows that the SYN-ACKs of a port were sent again, and to how many.
fn ss_resent(namespace: &Netns, port: u16) -> (u64, u64) {
    let lines = ss_connections(namespace, "syn-recv", port);
    let times = lines.iter().filter_map(|line| {
        let timer = line.split_once("timer:(on,")?.1.split_once(')')?.0;
        timer.rsplit_once(',')?.1.parse::<u64>().ok()
    });
    times.fold((0, 0), |(times, resent), count| {
        (times + count, resent + u64::from(count > 0))
    })
}

/// Whether the page says so of a metric of a port, with these labels. Kinds and states that a listener
/// never had are not on it.
fn says(
    page: &Page,
    metric: &str,
    port: u16,
    labels: &[(&str, &str)],
    expected: u64,
) -> Result<(), String> {
    let port = port.to_string();
    let mut all = vec![("port", &*port)];
    all.extend(labels);
    let shown = page.samples(metric, &all);
    let sum: u64 = shown.iter().map(|sample| sample.count()).sum();
    let is_left_out = [SYN_RECV, SOCKETS].contains(&metric)
        && !page.samples(ACCEPT_QUEUE, &[("port", &*port)]).is_empty();
    require(
        (is_left_out || !shown.is_empty()) && sum == expected,
        format!("{metric}{all:?}: {sum} instead of {expected}, {shown:?}"),
    )
}
