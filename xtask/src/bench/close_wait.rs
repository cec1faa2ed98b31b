//! Naming who keeps sockets in CLOSE_WAIT.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    Bench,
    agent::Agent,
    crew::{Crew, Kind},
    progress,
    row::{Reach, Row, Unit},
    scrape::{named, ss},
    spread::{Spread, float},
};

const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let sizes: &[u64] = bench.full_or_quick(&[10_000, 180_000], &[5_000]);
    for (place, connections) in sizes.iter().enumerate() {
        let crew = Crew::holding(*connections, Kind::HalfClosed)?;
        owners(bench, &crew, place + 1 == sizes.len())?;
    }
    Ok(())
}

fn owners(bench: &mut Bench, crew: &Crew, is_largest: bool) -> Result<()> {
    let what = format!("{} sockets in CLOSE_WAIT", named(crew.connections));
    progress(&what);
    let agent = Agent::start(&bench.agent, &[])?;
    let mut passes = Vec::new();
    // Each is by an owner, or it would not be named.
    let expected = float(crew.connections);
    let told = format!("the agent names the owners of {what}");
    passes.push(agent.until(PATIENCE, &told, |page| {
        // All workers are one program, and so one owner.
        let owned = page.sum("tcpstate_close_wait_sockets", &[("process", "xtask")])?;
        let is_told = (expected..expected + 1_000.0).contains(&owned);
        let took = page.sum("tcpstate_snapshot_duration_seconds", &[("pass", "owners")])?;
        is_told.then_some(took)
    })?);
    let mut asked = Vec::new();
    for _ in 0..bench.full_or_quick(5, 3) {
        let took = agent.ask(&["diagnose", "--interval=0", "--output=json"])?;
        asked.push(took.as_secs_f64());
        let (page, _) = agent.scrape()?;
        passes.extend(page.sum("tcpstate_snapshot_duration_seconds", &[("pass", "owners")]));
    }
    // At 180,000 once is long enough.
    let times = if is_largest && !bench.is_quick { 1 } else { 3 };
    let arguments = ["-tanp", "state", "close-wait"];
    let ss = ss(bench, &crew.namespace, &arguments, times)?;
    let passes = Spread::of(passes).context("no pass over owners")?;
    let mut row = Row::new(
        format!("naming the owners of {what}"),
        Unit::Seconds,
        passes,
    );
    if is_largest {
        row = row.reach(Reach::AtMost(0.06));
    }
    bench.row(row.beside("ss -tanp state close-wait", ss));
    let asked = Spread::of(asked).context("nobody was asked")?;
    let row = Row::new(
        format!("diagnose, asking the agent, {what}"),
        Unit::Seconds,
        asked,
    );
    bench.row(row.beside("ss -tanp state close-wait", ss));
    agent.end()
}
