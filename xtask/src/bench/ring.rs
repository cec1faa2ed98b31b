//! The ring of records: what its reader can take, and what happens when it does not.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{
    Bench,
    agent::Agent,
    exposition::Exposition,
    netns::Namespace,
    progress,
    row::{Reach, Row, Unit},
    spread::{Spread, float},
    stop,
};

const PATIENCE: Duration = Duration::from_mins(1);
/// Each leaves a record of both its ends.
const RECORDS: u64 = 2;
/// The ring has room for some 5,400 records.
const FILLS: u64 = 2_500;
const OVERFLOWS: u64 = 20_000;
/// The thread that takes records, and the one that waits for them.
const READER: &str = "ts-engine";
const WAITER: &str = "ts-ring";

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut namespace = Namespace::new()?;
    let agent = Agent::start(&bench.agent, &[])?;
    reader(bench, &mut namespace, &agent)?;
    sustained(bench, &mut namespace, &agent)?;
    overflow(bench, &mut namespace, &agent)?;
    agent.end()
}

/// The account of the ring at a moment.
#[derive(Clone, Copy, Debug)]
struct Account {
    emitted: f64,
    decoded: f64,
    lost: f64,
    /// Connections that were cut off, by the transitions: most while they were established, and
    /// some that the other side had just closed too.
    ends: f64,
    /// Transitions that the kernel did not show to the program. They have no record either.
    missed: f64,
}

impl Account {
    fn of(page: &Exposition) -> Result<Self> {
        let sum = |metric: &str, labels: &[(&str, &str)]| {
            page.sum(metric, labels)
                .with_context(|| format!("the agent shows no {metric}"))
        };
        let closes = |from| {
            sum(
                "tcpstate_transitions_total",
                &[("from", from), ("to", "close")],
            )
        };
        Ok(Self {
            emitted: sum("tcpstate_events_total", &[])?,
            decoded: sum("tcpstate_events_decoded_total", &[])?,
            lost: sum("tcpstate_events_lost_total", &[])?,
            ends: closes("established")? + closes("fin_wait1")?,
            missed: sum("tcpstate_missed_transitions_total", &[])?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            emitted: self.emitted - before.emitted,
            decoded: self.decoded - before.decoded,
            lost: self.lost - before.lost,
            ends: self.ends - before.ends,
            missed: self.missed - before.missed,
        }
    }

    /// Whether each of the `made` ends is in it, and each record has been read or is lost. A reset
    /// of someone else's may be on its way between the two counts.
    fn is_even(self, made: f64) -> bool {
        self.emitted.min(self.ends) + self.missed >= made
            && (self.emitted - self.decoded - self.lost).abs() < 0.5
    }
}

/// What came since `before`, when all is accounted for. The kernel may still have the last reset
/// to deliver.
fn settled(agent: &Agent, before: Account, made: f64) -> Result<Account> {
    let mut seen = None;
    agent
        .until(PATIENCE, "all ends are accounted for", |page| {
            let since = Account::of(page).ok()?.since(before);
            seen = Some(since);
            since.is_even(made).then_some(since)
        })
        .with_context(|| format!("{made} ends were made, and the agent saw {seen:?}"))
}

/// The account now. A scrape empties the ring first.
fn account(agent: &Agent) -> Result<Account> {
    Account::of(&agent.scrape()?.0)
}

fn reset(namespace: &mut Namespace, count: u64) -> Result<Duration> {
    namespace
        .resident()
        .order(&format!("reset {count}"), PATIENCE)
}

/// Real connections cannot come as fast as records can be read. So the agent is stopped, the ring
/// filled, and what its reader takes to empty it measured by the reader's CPU time.
fn reader(bench: &mut Bench, namespace: &mut Namespace, agent: &Agent) -> Result<()> {
    let mut rates = Vec::new();
    let rounds = bench.full_or_quick(20, 6);
    progress(&format!("filling the ring {rounds} times"));
    for _ in 0..rounds {
        let before = account(agent)?;
        let (cpu, _) = agent.thread(READER)?;
        agent.signal(Signal::STOP)?;
        reset(namespace, FILLS)?;
        agent.signal(Signal::CONT)?;
        // It wakes ten times a second. What it has taken by then, a scrape does not take.
        let idle = stop::until(PATIENCE, "the ring is emptied", || {
            stop::sleep(Duration::from_millis(150))?;
            let (once, _) = agent.thread(READER)?;
            stop::sleep(Duration::from_millis(150))?;
            let (twice, _) = agent.thread(READER)?;
            Ok((once > cpu && twice - once < 0.001).then_some(twice))
        })?;
        let taken = account(agent)?.since(before);
        ensure!(
            taken.lost < 0.5 && taken.decoded >= float(RECORDS * FILLS),
            "the ring should have room for {FILLS} reset connections: {taken:?}"
        );
        rates.push(taken.decoded / (idle - cpu));
    }
    let rates = Spread::of(rates).context("nothing was read")?;
    bench.row(
        Row::new("records that its reader can take", Unit::PerSecond, rates)
            .reach(Reach::AtLeast(500_000.0))
            .note(
                "by the CPU time of the thread that reads, for a full ring at once; more than real connections can offer on this machine",
            ),
    );
    let per_million = Spread {
        median: 1e6 / rates.median,
        min: 1e6 / rates.max,
        max: 1e6 / rates.min,
        count: rates.count,
    };
    bench.row(Row::new(
        "CPU time for a million records, a full ring at once",
        Unit::Seconds,
        per_million,
    ));
    Ok(())
}

/// As many as there can be: connections that are reset one after the other.
fn sustained(bench: &mut Bench, namespace: &mut Namespace, agent: &Agent) -> Result<()> {
    let connections = bench.full_or_quick(200_000, 20_000);
    progress(&format!("resetting {connections} connections"));
    let before = account(agent)?;
    let ((cpu, _), (_, woken)) = (agent.thread(READER)?, agent.thread(WAITER)?);
    let took = reset(namespace, connections)?.as_secs_f64();
    let ((cpu_after, _), (_, woken_after)) = (agent.thread(READER)?, agent.thread(WAITER)?);
    let after = settled(agent, before, float(RECORDS * connections))?;
    bench.row(Row::new(
        "records of real connections, as fast as one process resets them",
        Unit::PerSecond,
        Spread::single(after.emitted / took),
    ));
    bench.row(
        Row::new("of those, lost", Unit::Count, Spread::single(after.lost))
            .reach(Reach::AtMost(0.0)),
    );
    bench.row(Row::new(
        "CPU time for a million records, as they come",
        Unit::Seconds,
        Spread::single((cpu_after - cpu) / after.emitted * 1e6),
    ));
    bench.row(
        Row::new(
            "wake-ups for them meanwhile",
            Unit::PerSecond,
            Spread::single(float(woken_after - woken) / took),
        )
        .note("it looks ten times a second in any case"),
    );
    Ok(())
}

/// The agent stands still, and more comes than the ring has room for.
fn overflow(bench: &mut Bench, namespace: &mut Namespace, agent: &Agent) -> Result<()> {
    progress("overflowing the ring");
    let before = account(agent)?;
    agent.signal(Signal::STOP)?;
    reset(namespace, OVERFLOWS)?;
    agent.signal(Signal::CONT)?;
    let start = Instant::now();
    let made = float(RECORDS * OVERFLOWS);
    let after = settled(agent, before, made)?;
    ensure!(after.lost > 0.0, "nothing was lost: {after:?}");
    ensure!(agent.is_healthy(), "the agent is not healthy any more");
    bench.row(
        Row::new(
            "back after it stood still and the ring overflowed",
            Unit::Seconds,
            Spread::single(start.elapsed().as_secs_f64()),
        )
        .note(format!(
            "of {} records {} were lost and counted as such; emitted is decoded and lost, of {made} ends {} are in the transitions, and the agent is healthy",
            after.emitted, after.lost, after.ends
        )),
    );
    Ok(())
}
