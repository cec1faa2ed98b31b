//! Clients that take and do not give, several kinds at once, and a scraper that behaves beside
//! them.

mod attacks;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::attacks::{ALL, Attack};
use super::{
    Bench,
    agent::Agent,
    progress,
    row::{Reach, Row, Unit},
    spread::{Spread, float},
    stop,
};

const MIB: f64 = 1024.0 * 1024.0;
/// A scrape that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two scrapes.
const INTERVAL: Duration = Duration::from_millis(100);
/// Until what the attacks cost is given back.
const REST: Duration = Duration::from_mins(1);

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    raise_descriptors()?;
    let length = Duration::from_secs(bench.full_or_quick(30, 5));
    for attack in ALL {
        attacked(bench, attack.name, &[&attack], length)?;
    }
    let all: Vec<&Attack> = ALL.iter().collect();
    let length = bench.full_or_quick(length * 2, length);
    let agent = attacked(bench, "all of these at once", &all, length)?;
    given_back(bench, &agent)?;
    agent.0.end()
}

/// An agent after an attack, and what it had before.
struct Attacked(Agent, u64);

/// Scrapes an agent while it is attacked.
fn attacked(
    bench: &mut Bench,
    name: &str,
    attacks: &[&Attack],
    length: Duration,
) -> Result<Attacked> {
    progress(&format!("attack: {name}"));
    let agent = Agent::start(&bench.agent, &[])?;
    let address = agent.address();
    let rest = agent.memory()?.resident;
    let cpu = agent.cpu()?;
    let stopped = AtomicBool::new(false);
    let mut seen = Seen::default();
    thread::scope(|scope| {
        for attack in attacks {
            scope.spawn(|| (attack.run)(address, &stopped));
        }
        let outcome = seen.watch(&agent, length);
        stopped.store(true, Ordering::Relaxed);
        outcome
    })?;
    let used = (agent.cpu()? - cpu) / length.as_secs_f64();
    let (page, _) = agent.scrape()?;
    let counted = |metric: &str| page.sum(metric, &[]).unwrap_or(0.0);
    let note = format!(
        "{:.0} connections accepted, {:.0} cut, {:.0} requests refused; {:.0} % of a core",
        counted("tcpstate_http_connections_accepted_total"),
        counted("tcpstate_http_connections_dropped_total"),
        counted("tcpstate_http_requests_refused_total"),
        100.0 * used,
    );
    let took = Spread::of(seen.took.iter().copied()).context("nothing was scraped")?;
    bench.row(Row::new(format!("scrape beside {name}"), Unit::Seconds, took).note(note));
    let slowest = Row::new(
        format!("the slowest of {} scrapes beside {name}", took.count),
        Unit::Seconds,
        Spread::single(took.max),
    );
    bench.row(slowest.reach(Reach::AtMost(0.1)));
    let failed = Row::new(
        format!("scrapes beside {name} that were not answered with 200, whole"),
        Unit::Count,
        Spread::single(float(seen.failed)),
    );
    bench.row(failed.reach(Reach::AtMost(0.0)));
    let resident = Row::new(
        format!("resident memory beside {name}"),
        Unit::Bytes,
        Spread::single(float(seen.resident)),
    );
    bench.row(resident.reach(Reach::AtMost(40.0 * MIB)));
    bench.row(Row::new(
        format!("descriptors beside {name}"),
        Unit::Count,
        Spread::single(float(seen.descriptors)),
    ));
    Ok(Attacked(agent, rest))
}

fn given_back(bench: &mut Bench, Attacked(agent, before): &Attacked) -> Result<()> {
    stop::sleep(bench.full_or_quick(REST, REST / 6))?;
    let after = agent.memory()?.resident;
    let row = Row::new(
        "resident memory a minute later, over that before",
        Unit::Ratio,
        Spread::single(float(after) / float(*before)),
    );
    bench.row(row.reach(Reach::AtMost(1.2)));
    Ok(())
}

/// What was seen of an agent while it was attacked.
#[derive(Default)]
struct Seen {
    /// Seconds that each scrape took.
    took: Vec<f64>,
    failed: u64,
    resident: u64,
    descriptors: u64,
}

impl Seen {
    fn watch(&mut self, agent: &Agent, length: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < length {
            let start = Instant::now();
            match scrape(agent.address()) {
                Ok(()) => self.took.push(start.elapsed().as_secs_f64()),
                Err(error) => {
                    progress(&format!("a scrape failed: {error:#}"));
                    self.failed += 1;
                }
            }
            self.resident = self.resident.max(agent.memory()?.resident);
            let descriptors = fs::read_dir(format!("/proc/{}/fd", agent.pid()))
                .context("cannot count the agent's descriptors")?
                .count();
            self.descriptors = self.descriptors.max(descriptors as u64);
            stop::sleep(INTERVAL.saturating_sub(start.elapsed()))?;
        }
        Ok(())
    }
}

/// One scrape over a connection of its own, from an address that attacks nobody.
fn scrape(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    if length.and_then(|length| length.parse().ok()) != Some(body.len()) {
        bail!("{} bytes of {length:?}", body.len());
    }
    Ok(())
}

/// The attackers have thousands of connections.
fn raise_descriptors() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of descriptors")
}
