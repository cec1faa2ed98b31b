//! Processes that make sockets, as the benchmarks see them: one process has not enough descriptors
//! for a million. What they do is in `traffic.rs`.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    netns::Namespace,
    running::Running,
    stop,
    traffic::{Report, Settings},
};

/// The hidden command of xtask that is a worker.
pub(crate) const COMMAND: &str = "bench-worker";

/// What a worker does first, and then waits for orders.
#[derive(Clone, Debug, Default)]
pub(crate) struct Task(Settings);

impl Task {
    /// Holds `connections` to itself.
    pub(crate) fn hold(connections: u32) -> Self {
        Self(Settings {
            connections,
            ..Settings::default()
        })
    }

    /// They are half closed: the accepting side is in CLOSE_WAIT.
    pub(crate) const fn half_closed(mut self) -> Self {
        self.0.half_closed = true;
        self
    }

    /// Listens on so many sockets beside.
    pub(crate) const fn listening(mut self, listeners: u32) -> Self {
        self.0.listeners = listeners;
        self
    }

    /// Workers in one namespace have different numbers: each has addresses of its own.
    pub(crate) const fn numbered(mut self, number: u8) -> Self {
        self.0.number = number;
        self
    }
}

/// A worker that runs; it ends when this is dropped, and when this process ends.
pub(crate) struct Worker {
    running: Running,
    orders: ChildStdin,
    reports: Receiver<Report>,
    made: Arc<AtomicU64>,
}

impl Worker {
    pub(crate) fn start(namespace: &Namespace, task: &Task) -> Result<Self> {
        let mut command = command()?;
        task.0.describe(&mut command);
        namespace.enter(|| Self::spawn(&mut command))
    }

    pub(crate) fn start_in_new_namespace(task: Task) -> Result<Self> {
        let worker = command()?;
        let mut command = Command::new("unshare");
        command
            .arg("--net")
            .arg(worker.get_program())
            .args(worker.get_args());
        let mut settings = task.0;
        settings.loopback = true;
        settings.describe(&mut command);
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let mut running = Running::start(
            "a benchmark's worker",
            command.stdin(Stdio::piped()).stdout(Stdio::piped()),
        )?;
        let orders = running.child().stdin.take();
        let output = running.child().stdout.take();
        let (orders, output) = orders.zip(output).context("a worker has no pipes")?;
        let made = Arc::new(AtomicU64::new(0));
        let (sender, reports) = mpsc::channel();
        let counter = Arc::clone(&made);
        // It ends with the worker, whose end of the pipe is closed then.
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Some(report) = line.ok().and_then(|line| Report::parse(&line)) else {
                    return;
                };
                if let Report::Made(number) = report {
                    counter.store(number, Ordering::Relaxed);
                } else if sender.send(report).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            running,
            orders,
            reports,
            made,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// How many connections it has made so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    pub(crate) fn wait_until_ready(&self, patience: Duration) -> Result<()> {
        self.report(patience, "a worker has made its sockets")
            .map(drop)
    }

    /// Has it do something more, and waits until it is done. Returns how long it took, by its own
    /// clock.
    pub(crate) fn order(&mut self, order: &str, patience: Duration) -> Result<Duration> {
        writeln!(self.orders, "{order}")
            .with_context(|| format!("cannot order a worker to {order}"))?;
        match self.report(patience, &format!("a worker is done with `{order}`"))? {
            Report::Done(took) => Ok(took),
            other => bail!("a worker was ordered to {order} and says {other:?}"),
        }
    }

    fn report(&self, patience: Duration, what: &str) -> Result<Report> {
        stop::until(patience, what, || {
            match self.reports.recv_timeout(Duration::from_millis(1)) {
                Ok(report) => Ok(Some(report)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("a worker has ended (its last words are above)")
                }
            }
        })
    }

    /// Begins to end it; dropping it waits for the end.
    pub(crate) fn kill(&self) -> Result<()> {
        self.running.signal(rustix::process::Signal::KILL)
    }

    pub(crate) fn is_ready(&self) -> Result<bool> {
        match self.reports.try_recv() {
            Ok(_) => Ok(true),
            Err(mpsc::TryRecvError::Empty) => Ok(false),
            Err(mpsc::TryRecvError::Disconnected) => {
                bail!("a worker has ended (its last words are above)")
            }
        }
    }
}

fn command() -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot find xtask itself")?);
    command.arg(COMMAND);
    Ok(command)
}
