//! Many network namespaces: all share one table of sockets.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{
    Bench,
    agent::Agent,
    exposition::Exposition,
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
/// So many are a large host.
const MANY: usize = 200;
/// How many more each makes while it is watched.
const MORE: u32 = 10;
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let numbers: &[u32] = bench.full_or_quick(&[1, 50, 200], &[1, 20]);
    for number in numbers {
        for connections in [0, CONNECTIONS] {
            let namespaces = Namespaces::new(*number, connections);
            many(bench, &namespaces, Expected::AtEachScrape)?;
        }
    }
    Ok(())
}

/// The same while so many sockets are in another namespace.
pub(super) fn beside(bench: &mut Bench, sockets: &str) -> Result<()> {
    let all: &[(u32, u32)] = bench.full_or_quick(
        &[(1, CONNECTIONS), (200, 0), (200, CONNECTIONS)],
        &[(5, CONNECTIONS)],
    );
    for (number, connections) in all {
        let mut namespaces = Namespaces::new(*number, *connections);
        namespaces.what = format!("{}, beside {sockets} elsewhere", namespaces.what);
        many(bench, &namespaces, Expected::InTenSeconds)?;
    }
    Ok(())
}

/// Namespaces to be made, each with so many connections.
struct Namespaces {
    number: u32,
    connections: u32,
    what: String,
}

/// When the gauges should say so where something changes in each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    AtEachScrape,
    InTenSeconds,
}

impl Namespaces {
    fn new(number: u32, connections: u32) -> Self {
        let what = match connections {
            0 => format!("{number} empty namespaces"),
            _ => format!("{number} namespaces of {} sockets", 2 * connections),
        };
        Self {
            number,
            connections,
            what,
        }
    }

    fn make(&self) -> Result<Vec<Namespace>> {
        let mut made = Vec::new();
        for _ in 0..self.number {
            stop::check()?;
            made.push(Namespace::with(Task::hold(self.connections))?);
        }
        Ok(made)
    }
}

fn many(bench: &mut Bench, namespaces: &Namespaces, expected: Expected) -> Result<()> {
    let what = &namespaces.what;
    progress(what);
    let agent = Agent::start(&bench.agent, &[])?;
    let (known, before) = shown(&agent)?;
    let mut made = namespaces.make()?;
    // From here on everything is there. Something of the machine's own may come and go meanwhile.
    let known = known + f64::from(namespaces.number);
    let sockets = before + f64::from(2 * namespaces.number * namespaces.connections);
    let found = Waited::until(&agent, &format!("{known} namespaces"), |(namespaces, _)| {
        namespaces >= known
    })?;
    let counted = Waited::until_established(&agent, sockets)?;
    bench.row(found.row("found", what).reach(Reach::AtMost(1.0)));
    let (latencies, _) = scrapes(&agent, bench.full_or_quick(50, 20))?;
    let [mut middle, slow] = scrape_rows(what, &latencies)?;
    if made.len() >= MANY && expected == Expected::AtEachScrape {
        middle = middle.reach(Reach::AtMost(0.003));
    }
    bench.row(middle);
    bench.row(slow);
    if namespaces.connections > 0 {
        bench.row(expected.of(&counted, "counted after the last was made", what));
        let sockets = change(&mut made, sockets)?;
        let right = Waited::until_established(&agent, sockets)?;
        bench.row(expected.of(&right, "gauges right after a change in each", what));
    }
    background(bench, &agent, &mut made, what)?;
    agent.end()
}

/// How long something took to be shown, and the scrapes until then.
struct Waited {
    took: Duration,
    scrapes: u32,
}

impl Waited {
    fn until(
        agent: &Agent,
        what: &str,
        mut is_right: impl FnMut((f64, f64)) -> bool,
    ) -> Result<Self> {
        let start = Instant::now();
        let (mut last, mut scrapes) = (None, 0);
        let found = agent.until(PATIENCE, &format!("the agent shows {what}"), |page| {
            scrapes += 1;
            last = of_page(page);
            is_right(last?).then_some(())
        });
        found.with_context(|| format!("it showed {last:?} last"))?;
        Ok(Self {
            took: start.elapsed(),
            scrapes,
        })
    }

    /// What the agent says is off by a few where they were made during a snapshot.
    fn until_established(agent: &Agent, sockets: f64) -> Result<Self> {
        Self::until(
            agent,
            &format!("{sockets} sockets established"),
            |(_, shown)| (shown - sockets).abs() < 10.0,
        )
    }

    fn row(&self, which: &str, what: &str) -> Row {
        Row::new(
            format!("scrapes until they are {which}, {what}"),
            Unit::Count,
            Spread::single(f64::from(self.scrapes)),
        )
    }
}

impl Expected {
    fn of(self, waited: &Waited, which: &str, what: &str) -> Row {
        match self {
            Self::AtEachScrape => waited.row(which, what).reach(Reach::AtMost(1.0)),
            Self::InTenSeconds => Row::new(
                format!("{which}, {what}"),
                Unit::Seconds,
                Spread::single(waited.took.as_secs_f64()),
            )
            .reach(Reach::AtMost(10.0)),
        }
    }
}

/// In every namespace something changes. There are so many `sockets` before; returns how many there
/// are then.
fn change(namespaces: &mut [Namespace], mut sockets: f64) -> Result<f64> {
    for namespace in namespaces {
        namespace
            .resident()
            .order(&format!("hold {MORE}"), PATIENCE)?;
        sockets += f64::from(2 * MORE);
    }
    Ok(sockets)
}

/// What the agent uses while nobody asks it, and connections come and go in each namespace.
fn background(
    bench: &mut Bench,
    agent: &Agent,
    namespaces: &mut [Namespace],
    what: &str,
) -> Result<()> {
    let seconds = bench.full_or_quick(if namespaces.len() < MANY { 10 } else { 60 }, 4);
    let (before, start) = (agent.cpu()?, Instant::now());
    while start.elapsed() < Duration::from_secs(seconds) {
        for namespace in &mut *namespaces {
            namespace.resident().order("close 1", PATIENCE)?;
        }
        stop::sleep(Duration::from_secs(1))?;
    }
    let used = (agent.cpu()? - before) / start.elapsed().as_secs_f64();
    let name = format!("CPU in the background, of one core, {what}");
    let row = Row::new(name, Unit::Percent, Spread::single(used * 100.0));
    bench.row(row.reach(Reach::AtMost(2.0)).note(format!(
        "over {seconds} s without a scrape, a connection coming and going in each every second"
    )));
    Ok(())
}

fn shown(agent: &Agent) -> Result<(f64, f64)> {
    let (page, _) = agent.scrape()?;
    of_page(&page).context("the agent shows no namespaces, or no sockets")
}

/// How many namespaces and established sockets it shows.
fn of_page(page: &Exposition) -> Option<(f64, f64)> {
    Some((
        page.sum("tcpstate_namespaces", &[])?,
        page.sum("tcpstate_sockets", &[("state", "established")])?,
    ))
}
