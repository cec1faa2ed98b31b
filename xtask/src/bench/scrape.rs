//! Scrapes and memory on a thousand, a hundred thousand and a million sockets.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Bench,
    agent::{self, Agent},
    crew::{Crew, Kind},
    exposition::Exposition,
    http::Client,
    netns::Namespace,
    progress,
    row::{Reach, Row, Unit},
    running::Running,
    spread::{Spread, float, quantile},
    stop,
};

const MIB: f64 = 1024.0 * 1024.0;
const LISTENERS: u32 = 10_000;
const PATIENCE: Duration = Duration::from_mins(1);
const TIME_WAITS: u64 = 250_000;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let sizes: &[u64] = bench.full_or_quick(&[1_000, 100_000, 1_000_000], &[1_000, 20_000]);
    for (number, sockets) in sizes.iter().enumerate() {
        let is_largest = number + 1 == sizes.len();
        let mut crew = Crew::holding(sockets / 2, Kind::Established)?;
        established(bench, &crew, is_largest)?;
        if is_largest {
            listeners(bench, &mut crew)?;
        }
    }
    // As many again are in FIN_WAIT2 at the other end.
    for connections in bench.full_or_quick(&[1_000, 100_000, 500_000][..], &[2_000]) {
        half_closed(bench, *connections)?;
    }
    time_wait(bench)
}

/// A number of sockets in words.
pub(super) fn named(sockets: u64) -> String {
    Unit::Count.show(float(sockets))
}

/// Latencies of scrapes one after the other; the last page.
pub(super) fn scrapes(agent: &Agent, count: usize) -> Result<(Vec<f64>, Exposition)> {
    let (mut page, _) = agent.scrape()?;
    let mut latencies = Vec::new();
    for _ in 0..count {
        stop::check()?;
        let (next, took) = agent.scrape()?;
        latencies.push(took.as_secs_f64());
        page = next;
    }
    Ok((latencies, page))
}

/// A row of the middle and the ends of scrapes, and one of the slowest in a hundred.
pub(super) fn scrape_rows(what: &str, latencies: &[f64]) -> Result<[Row; 2]> {
    let spread = Spread::of(latencies.iter().copied()).context("nothing was scraped")?;
    let slow = quantile(latencies.iter().copied(), 0.99).context("nothing was scraped")?;
    let count = latencies.len();
    Ok([
        Row::new(format!("a scrape, {what}"), Unit::Seconds, spread),
        Row::new(
            format!("p99 of {count} scrapes, {what}"),
            Unit::Seconds,
            Spread::single(slow),
        ),
    ])
}

/// Waits until the agent shows so many sockets in `state`. There may be others on the machine
/// beside; that it shows none too many is for the tests, where there are none.
pub(super) fn await_gauge(agent: &Agent, state: &str, expected: u64) -> Result<()> {
    let what = format!("the agent shows {expected} sockets in {state}");
    let mut shown = None;
    agent
        .until(PATIENCE, &what, |page| {
            shown = page.sum("tcpstate_sockets", &[("state", state)]);
            (shown? >= float(expected)).then_some(())
        })
        .with_context(|| format!("it shows {shown:?}"))
}

fn established(bench: &mut Bench, crew: &Crew, is_largest: bool) -> Result<()> {
    let sockets = 2 * crew.connections;
    let what = format!("{} sockets established", named(sockets));
    let is_million = sockets >= 1_000_000;
    progress(&what);
    let agent = Agent::start(&bench.agent, &[])?;
    await_gauge(&agent, "established", sockets)?;
    let count = bench.full_or_quick(200, 50);
    let before = agent.cpu()?;
    let (latencies, _) = scrapes(&agent, count)?;
    let cpu = (agent.cpu()? - before) / float(count as u64);
    let first = Row::new(
        format!("start to first scrape answered, {what}"),
        Unit::Seconds,
        Spread::single(agent.first_scrape_after.as_secs_f64()),
    )
    .reach(Reach::AtMost(1.0));

    let ss = ss(
        bench,
        &crew.namespace,
        &["-tan"],
        if is_million { 3 } else { 5 },
    )?;
    let node = node_exporter(bench, &crew.namespace, if is_million { 3 } else { 10 })?;
    let [mut middle, slow] = scrape_rows(&what, &latencies)?;
    if is_largest {
        middle = middle.reach(Reach::AtMost(0.002));
    }
    let node_latency = node.as_ref().map(|node| node.latency);
    bench.row(
        middle
            .beside("ss -tan", ss)
            .beside("node_exporter, tcpstat", node_latency),
    );
    bench.row(slow);
    bench.row(Row::new(
        format!("CPU time for a scrape, {what}"),
        Unit::Seconds,
        Spread::single(cpu),
    ));
    bench.row(first);
    memory_rows(bench, &agent, &what, node.map(|node| node.resident))?;
    agent.end()
}

/// What the agent uses, and its part of the kernel's memory.
fn memory_rows(
    bench: &mut Bench,
    agent: &Agent,
    what: &str,
    node_exporter: Option<Spread>,
) -> Result<()> {
    let memory = agent.memory()?;
    let maps: u64 = agent.maps()?.iter().map(|map| map.bytes).sum();
    let row = |name: &str, bytes: u64, limit: f64| {
        let figure = Spread::single(float(bytes));
        Row::new(format!("{name}, {what}"), Unit::Bytes, figure).reach(Reach::AtMost(limit * MIB))
    };
    let resident = row("resident memory", memory.resident, 20.0);
    bench.row(resident.beside("node_exporter", node_exporter));
    bench.row(row("its peak", memory.peak, 64.0));
    bench.row(row("kernel memory of all maps", maps, 16.0));
    Ok(())
}

fn listeners(bench: &mut Bench, crew: &mut Crew) -> Result<()> {
    let listeners = LISTENERS;
    progress(&format!("{listeners} listening sockets beside"));
    crew.add_listeners(listeners)?;
    let agent = Agent::start(&bench.agent, &[])?;
    // They are in series once their owners have been looked for; each has a limit of one or more.
    agent.until(PATIENCE, "the agent shows all that listens", |page| {
        let limits = page.sum("tcpstate_listener_accept_queue_limit", &[])?;
        (limits >= f64::from(listeners)).then_some(())
    })?;
    let (latencies, page) = scrapes(&agent, bench.full_or_quick(200, 20))?;
    let what = format!(
        "{} listening and {} established",
        named(listeners.into()),
        named(2 * crew.connections)
    );
    let [mut middle, slow] = scrape_rows(&what, &latencies)?;
    let bytes = page.bytes();
    if !bench.is_quick {
        middle = middle.reach(Reach::AtMost(0.005));
    }
    bench.row(middle);
    bench.row(slow);
    bench.row(Row::new(
        format!("size of the page, {what}"),
        Unit::Bytes,
        Spread::single(float(bytes as u64)),
    ));
    agent.end()
}

fn half_closed(bench: &mut Bench, connections: u64) -> Result<()> {
    let crew = Crew::holding(connections, Kind::HalfClosed)?;
    let agent = Agent::start(&bench.agent, &[])?;
    await_gauge(&agent, "close_wait", connections)?;
    let (latencies, _) = scrapes(&agent, bench.full_or_quick(200, 50))?;
    let count = named(connections);
    let ss = ss(bench, &crew.namespace, &["-tan"], 3)?;
    let what = format!("{count} sockets in CLOSE_WAIT");
    let [mut middle, slow] = scrape_rows(&what, &latencies)?;
    let is_largest = connections >= 500_000;
    if is_largest {
        middle = middle.reach(Reach::AtMost(0.01));
    }
    bench.row(middle.beside("ss -tan", ss));
    bench.row(slow);
    if is_largest {
        memory_rows(bench, &agent, &what, None)?;
    }
    agent.end()
}

/// They last a minute: everything is done by then.
fn time_wait(bench: &mut Bench) -> Result<()> {
    let connections = bench.full_or_quick(TIME_WAITS, 5_000);
    let mut namespace = Namespace::new()?;
    let agent = Agent::start(&bench.agent, &[])?;
    let took = namespace
        .resident()
        .order(&format!("close {connections}"), Duration::from_secs(50))?;
    progress(&format!(
        "{connections} sockets in TIME_WAIT in {:.1} s",
        took.as_secs_f64()
    ));
    await_gauge(&agent, "time_wait", connections)?;
    let (latencies, _) = scrapes(&agent, bench.full_or_quick(200, 50))?;
    let ss = ss(bench, &namespace, &["-tan"], 3)?;
    let what = format!("{} sockets in TIME_WAIT", named(connections));
    let [middle, slow] = scrape_rows(&what, &latencies)?;
    bench.row(middle.beside("ss -tan", ss));
    bench.row(slow);
    agent.end()
}

/// How long `ss` takes in a namespace; `None` where it is not here.
pub(super) fn ss(
    bench: &Bench,
    namespace: &Namespace,
    arguments: &[&str],
    times: usize,
) -> Result<Option<Spread>> {
    let Some(program) = &bench.peers.ss else {
        return Ok(None);
    };
    progress(&format!("ss {}", arguments.join(" ")));
    let mut took = Vec::new();
    for _ in 0..times {
        let start = Instant::now();
        let running = namespace.enter(|| {
            Running::start(
                "ss",
                Command::new(program).args(arguments).stdout(Stdio::null()),
            )
        })?;
        running.succeed(Duration::from_mins(3))?;
        took.push(start.elapsed().as_secs_f64());
    }
    Ok(Spread::of(took))
}

struct NodeExporter {
    latency: Spread,
    resident: Spread,
}

/// What node_exporter's collector of TCP states takes for the same sockets.
fn node_exporter(
    bench: &Bench,
    namespace: &Namespace,
    times: usize,
) -> Result<Option<NodeExporter>> {
    let Some(program) = &bench.peers.node_exporter else {
        return Ok(None);
    };
    progress("node_exporter");
    let address = namespace.enter(|| {
        TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .context("cannot find a free port")
    })?;
    let mut running = Running::start(
        "node_exporter",
        namespace
            .bound(&program.to_string_lossy())
            .args(["--collector.disable-defaults", "--collector.tcpstat"])
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    let client = Client::new();
    let (health, url) = (
        format!("http://{address}/"),
        format!("http://{address}/metrics"),
    );
    stop::until(Duration::from_secs(10), "node_exporter answers", || {
        if let Some(status) = running.has_ended()? {
            anyhow::bail!("node_exporter has ended: {status}");
        }
        Ok(namespace.enter(|| client.get(&health)).ok())
    })?;
    let mut took = Vec::new();
    for _ in 0..times {
        stop::check()?;
        let start = Instant::now();
        let page = namespace.enter(|| client.get(&url))?;
        took.push(start.elapsed().as_secs_f64());
        Exposition(page)
            .sum("node_tcp_connection_states", &[("state", "established")])
            .context("node_exporter does not tell states")?;
    }
    let memory = agent::memory_of(running.pid())?;
    running.end()?;
    let latency = Spread::of(took).context("node_exporter was not scraped")?;
    Ok(Some(NodeExporter {
        latency,
        resident: Spread::single(float(memory.resident)),
    }))
}
