//! How late a process is: one that the clock wakes, and one that connects.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use rustix::time::{ClockId, Timespec, clock_gettime};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    agent::scratch,
    netns::Namespace,
    running::{self, Running},
    traffic::churned_address,
};

/// The hidden command of xtask that measures.
pub(crate) const COMMAND: &str = "bench-latency";

/// How often the clock wakes it.
const INTERVAL: Duration = Duration::from_millis(1);
/// Above everything that is no interrupt.
const PRIORITY: &str = "50";
const PATIENCE: Duration = Duration::from_mins(1);

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// How late a wake-up is that was asked for
    WakeUps,
    /// How long it takes to connect over the loopback, and to close
    Connects,
}

/// The hidden command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    #[arg(value_enum)]
    what: What,
    #[arg(long)]
    seconds: u64,
}

/// `cargo xtask bench-latency`: prints nanoseconds, a line each.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(settings.seconds);
    let latencies = match settings.what {
        What::WakeUps => wake_ups(end)?,
        What::Connects => connects(end)?,
    };
    let mut text = String::new();
    for latency in latencies {
        text.push_str(&latency.as_nanos().to_string());
        text.push('\n');
    }
    print!("{text}");
    Ok(())
}

fn wake_ups(end: Instant) -> Result<Vec<Duration>> {
    let now = || -> Result<Duration> {
        let now = Duration::try_from(clock_gettime(ClockId::Monotonic));
        now.context("the clock is before its beginning")
    };
    let mut late = Vec::new();
    let mut due = now()?;
    while Instant::now() < end {
        due += INTERVAL;
        let at = Timespec::try_from(due).context("the clock is at its end")?;
        rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &at)
            .context("cannot sleep")?;
        late.push(now()?.saturating_sub(due));
        // One that was missed is not made up for.
        due = due.max(now()?);
    }
    Ok(late)
}

fn connects(end: Instant) -> Result<Vec<Duration>> {
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot listen on the loopback")?;
    let port = listener.local_addr()?.port();
    let mut took = Vec::new();
    for number in 0.. {
        if Instant::now() >= end {
            break;
        }
        let target: SockAddr = SocketAddr::from((churned_address(number), port)).into();
        let client =
            Socket::new(Domain::IPV4, Type::STREAM, None).context("cannot make a socket")?;
        let start = Instant::now();
        client.connect(&target).context("cannot connect")?;
        let connected = start.elapsed();
        let (server, _) = listener.accept().context("cannot accept")?;
        let start = Instant::now();
        drop(client);
        took.push(connected + start.elapsed());
        drop(server);
    }
    Ok(took)
}

/// How late a process is on a CPU of its own.
pub(crate) fn measure(what: What, cpu: usize, seconds: u64) -> Result<Vec<f64>> {
    let namespace = Namespace::new()?;
    let xtask = env::current_exe().context("cannot find xtask itself")?;
    let output = scratch("latency.txt")?;
    let file =
        File::create(&output).with_context(|| format!("cannot create {}", output.display()))?;
    let mut command = match what {
        What::WakeUps => {
            let mut command = running::bound("chrt");
            command.args(["--fifo", PRIORITY, "taskset"]);
            command
        }
        What::Connects => namespace.bound("taskset"),
    };
    command
        .args(["--cpu-list", &cpu.to_string()])
        .arg(xtask)
        .arg(COMMAND)
        .arg(what.word())
        .arg(format!("--seconds={seconds}"))
        .stdin(Stdio::null())
        .stdout(file);
    Running::start("a process whose latency is measured", &mut command)?
        .succeed(PATIENCE + Duration::from_secs(seconds))?;
    let text =
        fs::read_to_string(&output).with_context(|| format!("cannot read {}", output.display()))?;
    let latencies: Vec<f64> = text
        .lines()
        .map(|line| line.parse::<f64>().map(|nanoseconds| nanoseconds * 1e-9))
        .collect::<Result<_, _>>()
        .context("a latency is no number")?;
    ensure!(!latencies.is_empty(), "nothing was measured");
    Ok(latencies)
}

impl What {
    fn word(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wake_up_is_late_by_something_and_comes_once_an_interval() -> Result<()> {
        let late = wake_ups(Instant::now() + Duration::from_millis(50))?;
        assert!((2..=50).contains(&late.len()), "{}", late.len());
        assert!(late.iter().all(|late| !late.is_zero()));
        Ok(())
    }

    #[test]
    fn connections_are_made_until_the_end() -> Result<()> {
        let took = connects(Instant::now() + Duration::from_millis(50))?;
        assert!(took.len() > 1 && took.iter().all(|took| !took.is_zero()));
        Ok(())
    }
}
