//! Many network namespaces: all share one table of sockets, and each has to be walked for itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{
    Bench,
    agent::Agent,
    netns::Namespace,
    progress,
    row::{Reach, Row, Unit},
    scrape::{scrape_rows, scrapes},
    spread::Spread,
    stop,
    worker::Task,
};

/// Connections in each namespace; each is two sockets.
const CONNECTIONS: u32 = 250;
/// How many more each makes while it is watched.
const MORE: u32 = 10;
/// Beside a million sockets each has to be looked for among all of them, which takes half a second.
const PATIENCE: Duration = Duration::from_mins(5);

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let numbers: &[u32] = bench.full_or_quick(&[1, 50, 200], &[1, 20]);
    for (place, number) in numbers.iter().enumerate() {
        let is_most = place + 1 == numbers.len();
        for connections in [0, CONNECTIONS] {
            many(bench, *number, connections, "", is_most)?;
        }
    }
    Ok(())
}

/// The same while so many sockets are in another namespace.
pub(super) fn beside(bench: &mut Bench, sockets: &str) -> Result<()> {
    let others = format!(", beside {sockets} elsewhere");
    let all: &[(u32, u32)] = bench.full_or_quick(
        &[
            (1, CONNECTIONS),
            (50, CONNECTIONS),
            (200, 0),
            (200, CONNECTIONS),
        ],
        &[(5, CONNECTIONS)],
    );
    for (number, connections) in all {
        many(bench, *number, *connections, &others, false)?;
    }
    Ok(())
}

fn many(
    bench: &mut Bench,
    number: u32,
    connections: u32,
    others: &str,
    is_reach: bool,
) -> Result<()> {
    let what = match connections {
        0 => format!("{number} empty namespaces{others}"),
        _ => format!("{number} namespaces of {} sockets{others}", 2 * connections),
    };
    progress(&what);
    let agent = Agent::start(&bench.agent, &[])?;
    let start_established = established(&agent)?;
    let mut namespaces = Vec::new();
    for _ in 0..number {
        stop::check()?;
        namespaces.push(Namespace::with(Task::hold(connections))?);
    }
    // From here on everything is there; the agent still has to find the last of them.
    let start = Instant::now();
    let sockets = start_established + f64::from(2 * number * connections);
    await_established(&agent, sockets)?;
    let found = start.elapsed();
    agent.until(PATIENCE, "the agent has counted all namespaces", |page| {
        let counted = page.sum("tcpstate_namespaces", &[("result", "counted")])?;
        (counted > f64::from(number)).then_some(())
    })?;

    let (latencies, _) = scrapes(&agent, bench.full_or_quick(50, 20))?;
    for row in scrape_rows(&what, &latencies)? {
        bench.row(row);
    }
    if connections > 0 {
        let row = Row::new(
            format!("found and counted after the last was made, {what}"),
            Unit::Seconds,
            Spread::single(found.as_secs_f64()),
        );
        bench.row(row);
        changes(bench, &agent, (&mut namespaces, sockets), &what, is_reach)?;
    }
    background(bench, &agent, &what, is_reach)?;
    agent.end()
}

/// In every namespace something changes: when the gauges say so. There are so many `sockets` in all
/// before; what the agent says of them is off by a few where they were made during a snapshot.
fn changes(
    bench: &mut Bench,
    agent: &Agent,
    (namespaces, mut sockets): (&mut [Namespace], f64),
    what: &str,
    is_reach: bool,
) -> Result<()> {
    for namespace in namespaces {
        namespace
            .resident()
            .order(&format!("hold {MORE}"), PATIENCE)?;
        sockets += f64::from(2 * MORE);
    }
    let start = Instant::now();
    await_established(agent, sockets)?;
    let mut row = Row::new(
        format!("gauges right after a change in each, {what}"),
        Unit::Seconds,
        Spread::single(start.elapsed().as_secs_f64()),
    );
    if is_reach {
        row = row.reach(Reach::AtMost(5.0));
    }
    bench.row(row);
    Ok(())
}

fn background(bench: &mut Bench, agent: &Agent, what: &str, is_reach: bool) -> Result<()> {
    let seconds = match (bench.is_quick, is_reach) {
        (true, _) => 4,
        (false, false) => 10,
        (false, true) => 30,
    };
    let (before, start) = (agent.cpu()?, Instant::now());
    stop::sleep(Duration::from_secs(seconds))?;
    let used = (agent.cpu()? - before) / start.elapsed().as_secs_f64();
    let mut row = Row::new(
        format!("CPU in the background, of one core, {what}"),
        Unit::Percent,
        Spread::single(used * 100.0),
    );
    if is_reach {
        row = row.reach(Reach::AtMost(2.0));
    }
    bench.row(row);
    Ok(())
}

fn established(agent: &Agent) -> Result<f64> {
    let (page, _) = agent.scrape()?;
    page.sum("tcpstate_sockets", &[("state", "established")])
        .context("the agent shows no sockets")
}

/// A few of the machine's own may come and go meanwhile.
fn await_established(agent: &Agent, expected: f64) -> Result<()> {
    let what = format!("the agent shows {expected} sockets established");
    let mut last = None;
    let found = agent.until(PATIENCE, &what, |page| {
        let shown = page.sum("tcpstate_sockets", &[("state", "established")])?;
        last = Some(shown);
        ((shown - expected).abs() < 10.0).then_some(())
    });
    found.with_context(|| format!("it showed {last:?} last"))
}
