//! What `where` costs: the process that it watches, all others, and itself.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{ChildStderr, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::RecvFlags;

use super::{
    Bench,
    echo::{Server, cpu},
    progress,
    row::{Reach, Row, Unit},
    running::{Running, bound},
    spread::Spread,
    stop,
};

/// Calls that are timed together: less than a scheduler's tick.
const CALLS: u32 = 2_000;
/// At what rate the watched process's share is told.
const REQUESTS: f64 = 50_000.0;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    others(bench)?;
    watched(bench)
}

/// `where`, attached to a process.
struct Watching {
    process: Running,
    /// Open for as long as it may want to say something.
    _stderr: BufReader<ChildStderr>,
    begun: Instant,
    cpu: f64,
}

impl Watching {
    fn start(bench: &Bench, pid: u32) -> Result<Self> {
        let agent = bench
            .agent
            .to_str()
            .context("the agent's path is no text")?;
        let mut process = Running::start(
            "where",
            bound(agent)
                .args(["where", "--seconds", "600", "--pid", &pid.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        )?;
        let stderr = process.child().stderr.take().context("no output")?;
        let mut stderr = BufReader::new(stderr);
        let mut said = String::new();
        // Libraries may warn of something first.
        while !said.lines().any(|line| line.starts_with("watching ")) {
            let read = stderr.read_line(&mut said)?;
            ensure!(read > 0, "where says: {said}");
        }
        Ok(Self {
            cpu: cpu(process.pid())?,
            begun: Instant::now(),
            process,
            _stderr: stderr,
        })
    }

    /// Which part of a core it has taken since it watches.
    fn share(&self) -> Result<f64> {
        let cpu = cpu(self.process.pid())? - self.cpu;
        Ok(cpu / self.begun.elapsed().as_secs_f64() * 100.0)
    }

    fn end(self) -> Result<()> {
        let mut process = self.process;
        process.signal(rustix::process::Signal::INT)?;
        process.finish(Duration::from_secs(20)).map(drop)
    }
}

/// What a process pays that is not watched.
fn others(bench: &mut Bench) -> Result<()> {
    let server = Server::start()?;
    let (own, mut peer) = pair()?;
    peer.write_all(b"x")?;
    let read = || {
        let mut byte = [0];
        rustix::net::recv(&own, &mut byte, RecvFlags::PEEK)?;
        Ok(())
    };
    let other = || {
        std::hint::black_box(rustix::process::getppid());
        Ok(())
    };
    let (mut reads, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..bench.full_or_quick(7, 3) {
        stop::check()?;
        let without = (least(read)?, least(other)?);
        let watching = Watching::start(bench, server.pid())?;
        let with = (least(read)?, least(other)?);
        watching.end()?;
        reads.push(with.0 - without.0);
        calls.push(with.1 - without.1);
    }
    let row = |what, costs| {
        let spread = Spread::of(costs).context("nothing was measured")?;
        Ok::<_, anyhow::Error>(Row::new(what, Unit::Seconds, spread))
    };
    bench.row(
        row("a read of a socket by another process, more", reads)?.reach(Reach::AtMost(30e-9)),
    );
    // What cannot be told from nothing: the clock's steps are as large.
    bench.row(row("another system call of it, more", calls)?.reach(Reach::AtMost(3e-9)));
    Ok(())
}

fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let peer = TcpStream::connect(listener.local_addr()?)?;
    Ok((listener.accept()?.0, peer))
}

/// The least that a call has taken: what disturbs only adds to it.
fn least(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..400 {
        let begun = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        least = least.min(begun.elapsed().as_secs_f64() / f64::from(CALLS));
    }
    Ok(least)
}

/// What the watched process pays, and the command itself.
fn watched(bench: &mut Bench) -> Result<()> {
    let duration = bench.full_or_quick(Duration::from_secs(4), Duration::from_secs(2));
    let times = bench.full_or_quick(5, 2);
    for (what, is_kept) in [
        ("on a kept connection", true),
        ("on a connection each", false),
    ] {
        let server = Server::start()?;
        server.load(Duration::from_millis(300), is_kept)?;
        let (mut more, mut shares, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..times {
            stop::check()?;
            let without = server.load(duration, is_kept)?;
            let watching = Watching::start(bench, server.pid())?;
            let with = server.load(duration, is_kept)?;
            shares.push(watching.share()?);
            watching.end()?;
            progress(&format!(
                "{what}: {:.2} µs a request without, {:.2} with",
                without.cpu * 1e6,
                with.cpu * 1e6
            ));
            more.push(with.cpu - without.cpu);
            rates.push(with.rate);
        }
        let spread = |values: Vec<f64>| Spread::of(values).context("nothing was measured");
        let rate = spread(rates)?;
        let note = format!("at {} requests a second", Unit::Count.show(rate.median));
        bench.row(
            Row::new(
                format!("a request {what}, more CPU time of the watched process"),
                Unit::Seconds,
                spread(more.clone())?,
            )
            .note(note.clone()),
        );
        if is_kept {
            let share = more.iter().map(|more| more * REQUESTS * 100.0).collect();
            bench.row(
                Row::new(
                    "of a core, at 50,000 requests a second",
                    Unit::Percent,
                    spread(share)?,
                )
                .reach(Reach::AtMost(3.0)),
            );
        }
        bench.row(
            Row::new(
                format!("CPU of `where` itself, requests {what}"),
                Unit::Percent,
                spread(shares)?,
            )
            .reach(Reach::AtMost(5.0))
            .note(note),
        );
    }
    Ok(())
}
