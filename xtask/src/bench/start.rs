//! How soon the agent is there, how large it is, and whether it grows.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    Bench,
    agent::{self, Agent},
    netns::Namespace,
    progress,
    row::{Reach, Row, Unit},
    running::Running,
    spread::{Spread, float},
    stop,
};
use crate::{process, vm};

const MIB: f64 = 1024.0 * 1024.0;
const PATIENCE: Duration = Duration::from_mins(2);
const BUILD_PATIENCE: Duration = Duration::from_mins(10);
/// Connections of an hour at fifty a second.
const HOUR: u64 = 180_000;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    first_scrape(bench)?;
    growth(bench)?;
    size(bench)
}

fn first_scrape(bench: &mut Bench) -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..bench.full_or_quick(10, 3) {
        let agent = Agent::start(&bench.agent, &[])?;
        took.push(agent.first_scrape_after.as_secs_f64());
        agent.end()?;
    }
    let took = Spread::of(took).context("it was never started")?;
    let row = Row::new("start to first scrape answered", Unit::Seconds, took);
    bench.row(row.reach(Reach::AtMost(1.0)));
    Ok(())
}

/// Churn in several parts, with scrapes between: after the first, memory should stay as it is.
fn growth(bench: &mut Bench) -> Result<()> {
    let parts = bench.full_or_quick(6, 3);
    let connections = bench.full_or_quick(HOUR, 30_000) / parts;
    let mut namespace = Namespace::new()?;
    let agent = Agent::start(&bench.agent, &[])?;
    let rest = agent.memory()?.resident;
    let mut resident = Vec::new();
    for part in 1..=parts {
        progress(&format!("churn, part {part} of {parts}"));
        for order in ["close", "reset"] {
            let order = format!("{order} {}", connections / 2);
            namespace.resident().order(&order, PATIENCE)?;
            for _ in 0..20 {
                agent.scrape()?;
            }
        }
        stop::check()?;
        resident.push(float(agent.memory()?.resident));
    }
    let (first, last) = resident
        .first()
        .zip(resident.last())
        .context("nothing was measured")?;
    let what = format!(
        "{} connections",
        Unit::Count.show(float(connections * parts))
    );
    bench.row(Row::new(
        "resident memory at rest",
        Unit::Bytes,
        Spread::single(float(rest)),
    ));
    bench.row(
        Row::new(
            format!("resident memory after {what}"),
            Unit::Bytes,
            Spread::single(*last),
        )
        .reach(Reach::AtMost(20.0 * MIB)),
    );
    bench.row(
        Row::new(
            format!("that over what it was after the first of {parts} parts"),
            Unit::Ratio,
            Spread::single(last / first),
        )
        .reach(Reach::AtMost(1.1)),
    );
    agent.end()
}

fn size(bench: &mut Bench) -> Result<()> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let binary = agent::target_folder()?
        .join(&target)
        .join("release/tcpstate-agent");
    if bench.is_quick {
        bench.skip("the size of the static binary, which takes long to build");
        return Ok(());
    }
    progress("building the static binary");
    vm::install_target(&target)?;
    // Not in a way that a signal would have to wait for.
    let cargo = Running::start(
        "cargo",
        process::cargo()?
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--package", "tcpstate-agent", "--target", &target]),
    )?;
    cargo.succeed(BUILD_PATIENCE)?;
    let size = fs::metadata(&binary)
        .with_context(|| format!("cannot find {}", binary.display()))?
        .len();
    let row = Row::new(
        "stripped static binary",
        Unit::Bytes,
        Spread::single(float(size)),
    );
    bench.row(row.reach(Reach::AtMost(12.0 * MIB)));
    Ok(())
}
