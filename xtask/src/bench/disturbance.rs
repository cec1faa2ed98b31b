//! Whom looks at the kernel's tables hold up: who is to run on the CPU that reads them, and who works
//! on another one with the same tables.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result};

use super::{
    Bench,
    agent::Agent,
    latency::{What, measure},
    progress,
    row::{Reach, Row, Unit},
    spread::{Spread, quantile},
};

/// The CPU that reads, and one that does not.
const READS: usize = 0;
const WORKS: usize = 1;

pub(super) fn run(bench: &mut Bench, what: &str) -> Result<()> {
    let agent = Agent::start(&bench.agent, &[])?;
    agent.stay_on(READS)?;
    wake_ups(bench, &agent, what)?;
    if thread::available_parallelism()?.get() > WORKS {
        connects(bench, &agent, what)?;
    } else {
        bench.skip("connections made while another CPU reads the tables, for want of a second CPU");
    }
    agent.end()
}

/// Latencies with looks (`true`) and without, one after the other in turn.
fn in_turn(
    agent: &Agent,
    what: What,
    cpu: usize,
    rounds: usize,
    seconds: u64,
) -> Result<BTreeMap<bool, Vec<Vec<f64>>>> {
    let mut latencies = BTreeMap::<bool, Vec<Vec<f64>>>::new();
    for _ in 0..rounds {
        let without = measure(what, cpu, seconds)?;
        latencies.entry(false).or_default().push(without);
        let with = during_looks(agent, || measure(what, cpu, seconds))?;
        latencies.entry(true).or_default().push(with);
    }
    Ok(latencies)
}

/// Does `work` while the agent makes one look after the other.
fn during_looks<T>(agent: &Agent, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| -> Result<u32> {
            let mut asked = 0;
            while !is_done.load(Ordering::Relaxed) {
                agent.ask_on(READS, &["diagnose", "--interval=0", "--output=json"])?;
                asked += 1;
            }
            Ok(asked)
        });
        let outcome = work();
        is_done.store(true, Ordering::Relaxed);
        let times = asking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        progress(&format!("{times} times all sockets were looked at"));
        outcome
    })
}

fn wake_ups(bench: &mut Bench, agent: &Agent, what: &str) -> Result<()> {
    progress("waking a real-time process");
    let (rounds, seconds) = bench.full_or_quick((4, 5), (1, 2));
    let latencies = in_turn(agent, What::WakeUps, READS, rounds, seconds)?;
    let late = |with: bool| {
        let all = latencies.get(&with).into_iter().flatten().flatten();
        quantile(all.copied(), 0.999).context("nothing was woken")
    };
    let (with, without) = (late(true)?, late(false)?);
    let name = format!("a real-time process is woken later on the CPU that looks at {what}, p99.9");
    bench.row(
        Row::new(name, Unit::Seconds, Spread::single(with - without))
            .reach(Reach::AtMost(250e-6))
            .beside("without looks", Some(Spread::single(without)))
            .note("SCHED_FIFO, woken every millisecond; the difference between p99.9 with looks one after the other and without any"),
    );
    Ok(())
}

fn connects(bench: &mut Bench, agent: &Agent, what: &str) -> Result<()> {
    progress("connecting and closing on another CPU");
    let (rounds, seconds) = bench.full_or_quick((8, 3), (2, 2));
    let latencies = in_turn(agent, What::Connects, WORKS, rounds, seconds)?;
    let slow = |with: bool| -> Vec<f64> {
        let rounds = latencies.get(&with).into_iter().flatten();
        rounds
            .filter_map(|round| quantile(round.iter().copied(), 0.99))
            .collect()
    };
    let (with, without) = (slow(true), slow(false));
    let ratios = with
        .iter()
        .zip(&without)
        .map(|(with, without)| with / without);
    let ratio = Spread::of(ratios).context("nothing was connected")?;
    let name =
        format!("connect and close while another CPU looks at {what}, p99 over that without");
    bench.row(Row::new(name, Unit::Ratio, ratio).reach(Reach::AtMost(1.05)));
    let name = format!("connect and close while another CPU looks at {what}, p99");
    let figure = Spread::of(with).context("nothing was connected")?;
    bench.row(Row::new(name, Unit::Seconds, figure).beside("without looks", Spread::of(without)));
    Ok(())
}
