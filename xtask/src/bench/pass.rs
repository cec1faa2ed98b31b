//! A look at the tables of a million sockets: what it takes, how old what is known gets, and whom it
//! holds up.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench,
    agent::{self, Agent},
    crew::{Crew, Kind},
    disturbance,
    exposition::Exposition,
    namespaces, progress,
    row::{Reach, Row, Unit},
    scrape::{await_gauge, named, ss},
    spread::Spread,
    stop,
};

const PATIENCE: Duration = Duration::from_mins(1);
/// Sockets in CLOSE_WAIT, for there to be something to diagnose.
const DIAGNOSED: u64 = 1_000;
/// The thread that looks.
const READER: &str = "ts-reader";

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let sockets = bench.full_or_quick(1_000_000, 20_000);
    let mut crew = Crew::holding(sockets / 2, Kind::Established)?;
    let what = format!("{} sockets", named(sockets));
    commands(bench, sockets, &what)?;
    let agent = Agent::start(&bench.agent, &[])?;
    await_gauge(&agent, "established", sockets)?;
    quiet(bench, &agent, &what)?;
    in_use(bench, &agent, &mut crew, &what)?;
    agent.end()?;
    disturbance::run(bench, &what)?;
    namespaces::beside(bench, &named(sockets))
}

/// What the agent uses when nobody asks it and nothing moves.
fn quiet(bench: &mut Bench, agent: &Agent, what: &str) -> Result<()> {
    let seconds = bench.full_or_quick(60, 10);
    progress(&format!("leaving the agent alone for {seconds} s"));
    let (before, start) = (agent.cpu()?, Instant::now());
    stop::sleep(Duration::from_secs(seconds))?;
    let used = (agent.cpu()? - before) / start.elapsed().as_secs_f64();
    bench.row(
        Row::new(
            format!("CPU in the background, of one core, {what}"),
            Unit::Percent,
            Spread::single(used * 100.0),
        )
        .note(format!("over {seconds} s without a scrape")),
    );
    Ok(())
}

/// The same where connections come and go, so that nothing that is known holds.
fn in_use(bench: &mut Bench, agent: &Agent, crew: &mut Crew, what: &str) -> Result<()> {
    let seconds = bench.full_or_quick(60, 10);
    progress(&format!("connections come and go for {seconds} s"));
    let mut ages = Vec::new();
    let mut passes = Vec::new();
    let ((before, _), start) = (agent.thread(READER)?, Instant::now());
    for _ in 0..seconds {
        crew.namespace.resident().order("close 10", PATIENCE)?;
        stop::sleep(Duration::from_secs(1))?;
        let (page, _) = agent.scrape()?;
        let (age, took) = (of_last(&page, "age")?, of_last(&page, "duration")?);
        // Younger than a second ago: it is another one.
        if ages.last().is_none_or(|before| age < *before) {
            passes.push(took);
        }
        ages.push(age);
    }
    let used = (agent.thread(READER)?.0 - before) / start.elapsed().as_secs_f64();
    let passes = Spread::of(passes).context("no pass was made")?;
    let times = bench.full_or_quick(3, 5);
    let ss = ss(bench, &crew.namespace, &["-tan"], times)?;
    let mut row = Row::new(
        format!("a pass over {what}, everything grouped"),
        Unit::Seconds,
        passes,
    );
    if !bench.is_quick {
        row = row.reach(Reach::AtMost(0.12));
    }
    bench.row(row.beside("ss -tan", ss));
    if let Some(ss) = ss {
        let name = format!("ss -tan over a pass over {what}");
        let mut row = Row::new(name, Unit::Ratio, ss.over(passes));
        if !bench.is_quick {
            row = row.reach(Reach::AtLeast(16.0));
        }
        bench.row(row);
    }
    let oldest = ages.into_iter().max_by(f64::total_cmp);
    bench.row(
        Row::new(
            format!("age of the oldest snapshot at most, {what}, others coming and going"),
            Unit::Seconds,
            Spread::single(oldest.context("nothing was scraped")?),
        )
        .reach(Reach::AtMost(10.0))
        .note(format!("over {seconds} s, with a scrape in each")),
    );
    let name = format!("CPU of the thread that looks meanwhile, of one core, {what}");
    bench.row(
        Row::new(name, Unit::Percent, Spread::single(used * 100.0))
            .reach(Reach::AtMost(2.0))
            .note("what it reads for the scrapes is in it"),
    );
    Ok(())
}

/// What the agent says of the last pass: its `age` or `duration`.
fn of_last(page: &Exposition, what: &str) -> Result<f64> {
    let metric = format!("tcpstate_snapshot_{what}_seconds");
    page.sum(&metric, &[("pass", "sockets")])
        .with_context(|| format!("the agent shows no {metric}"))
}

/// Commands that look for themselves.
fn commands(bench: &mut Bench, sockets: u64, what: &str) -> Result<()> {
    let _diagnosed = Crew::holding(DIAGNOSED, Kind::HalfClosed)?;
    let times = bench.full_or_quick(5, 3);
    let nobody = format!("--control.socket={}", agent::control_socket().display());
    let diagnose = ["diagnose", "--interval=0", &nobody];
    let (mut counted, mut diagnosed) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let (found, took) = agent::look(&bench.agent, &["snapshot"])?;
        let established = found["sockets"]["ipv4"]["established"].as_u64();
        ensure!(
            established >= Some(sockets),
            "snapshot counted {established:?} of {sockets} sockets"
        );
        counted.push(took.as_secs_f64());
        let (found, took) = agent::look(&bench.agent, &diagnose)?;
        let sockets = found["sockets"].as_u64();
        ensure!(
            sockets >= Some(DIAGNOSED),
            "diagnose found {sockets:?} of {DIAGNOSED} sockets in CLOSE_WAIT"
        );
        diagnosed.push(took.as_secs_f64());
    }
    for (name, took) in [("snapshot", counted), ("diagnose --interval 0", diagnosed)] {
        let took = Spread::of(took).context("nothing was run")?;
        let row = Row::new(
            format!("`{name}` without an agent, {what}"),
            Unit::Seconds,
            took,
        );
        bench.row(row.reach(Reach::AtMost(1.5)));
    }
    Ok(())
}
