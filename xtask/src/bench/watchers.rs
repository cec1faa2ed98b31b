//! Those who watch transitions: the agent, and others that do the same.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::{
    Bench,
    agent::{Agent, scratch},
    empty_program::EmptyProgram,
    kernel_objects::{self, Runs},
    running::{self, Running},
    stop,
};

/// Within what one of them has its program in the kernel.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long to let something that was just started come to rest.
const SETTLE: Duration = Duration::from_millis(300);
/// The same for others, which load their programs some time before they attach them.
const OTHERS_SETTLE: Duration = Duration::from_secs(2);

const PROGRAM: &str = "tcp_transition";
/// Older programs look below debugfs.
const WITH_TRACEFS: &str = "mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
exec \"$0\" \"$@\"";
const BPFTRACE: &str =
    "tracepoint:sock:inet_sock_set_state { @[args->oldstate, args->newstate] = count(); }";

/// One who watches transitions.
pub(super) enum Watcher {
    Run(Box<Agent>),
    Other(Running),
    /// Of this process.
    Empty(EmptyProgram),
}

impl Watcher {
    fn pid(&self) -> u32 {
        match self {
            Self::Run(agent) => agent.pid(),
            Self::Other(running) => running.pid(),
            Self::Empty(_) => std::process::id(),
        }
    }

    /// The programs that it has on transitions, all together; `None` where there are none.
    pub(super) fn runs(&self) -> Result<Option<Runs>> {
        let programs = kernel_objects::programs_of(self.pid())?;
        let of_agent = programs.iter().find(|program| program.name == PROGRAM);
        if let Some(program) = of_agent {
            return Ok(Some(program.runs));
        }
        let nanoseconds = programs.iter().map(|program| program.runs.nanoseconds);
        let count = programs.iter().map(|program| program.runs.count).max();
        Ok(count.map(|count| Runs {
            nanoseconds: nanoseconds.sum(),
            count,
        }))
    }

    /// Has it stand still: its programs go on, and nobody takes what they hand over.
    pub(super) fn stand_still(&self) -> Result<()> {
        match self {
            Self::Run(agent) => agent.signal(Signal::STOP),
            Self::Other(running) => running.signal(Signal::STOP),
            Self::Empty(_) => Ok(()),
        }
    }

    pub(super) fn end(self) -> Result<()> {
        match self {
            Self::Run(agent) => agent.end(),
            Self::Other(running) => {
                // One that stands still would not hear that it is to end.
                running.signal(Signal::CONT)?;
                running.end()
            }
            Self::Empty(program) => {
                drop(program);
                Ok(())
            }
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Run,
    Trace,
    /// The same, and nobody reads what it prints: it takes no records any more.
    LaggingTrace,
    Empty,
    Bpftrace,
    Tcpstates,
}

impl Who {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Run => "the agent",
            Self::Trace => "the agent's trace",
            Self::LaggingTrace => "the agent's trace, its reader standing still",
            Self::Empty => "an empty program",
            Self::Bpftrace => "bpftrace, counting",
            Self::Tcpstates => "libbpf-tools' tcpstates",
        }
    }

    /// Starts it and waits until its programs are there; `None` where it is not on this machine.
    pub(super) fn start(self, bench: &Bench) -> Result<Option<Watcher>> {
        let agent = &bench.agent;
        let mut command = match self {
            Self::Run => {
                let agent = Agent::start(agent, &[])?;
                stop::sleep(SETTLE)?;
                return Ok(Some(Watcher::Run(Box::new(agent))));
            }
            Self::Trace | Self::LaggingTrace => {
                let mut command = running::bound(&agent.to_string_lossy());
                command.args(["trace", "--output=json"]);
                command
            }
            Self::Empty => return Ok(Some(Watcher::Empty(EmptyProgram::on_transitions()?))),
            Self::Bpftrace => match &bench.peers.bpftrace {
                Some(program) => other(program, &["-q", "-e", BPFTRACE]),
                None => return Ok(None),
            },
            Self::Tcpstates => match &bench.peers.tcpstates {
                Some(program) => other(program, &[]),
                None => return Ok(None),
            },
        };
        let words = scratch("watcher.log")?;
        let log =
            File::create(&words).with_context(|| format!("cannot create {}", words.display()))?;
        let mut running = Running::start(
            self.name(),
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        )?;
        let what = format!("{} has its program in the kernel", self.name());
        stop::until(PATIENCE, &what, || {
            if let Some(status) = running.has_ended()? {
                let words = fs::read_to_string(&words).unwrap_or_default();
                anyhow::bail!("{} has ended: {status}: {}", self.name(), words.trim());
            }
            let programs = kernel_objects::programs_of(running.pid())?;
            Ok((!programs.is_empty()).then_some(()))
        })?;
        stop::sleep(OTHERS_SETTLE)?;
        Ok(Some(Watcher::Other(running)))
    }
}

/// Others need tracefs, which need not be mounted. They get it in a mount namespace of their own,
/// so that there is nothing to restore.
fn other(program: &Path, arguments: &[&str]) -> Command {
    let mut command = running::bound("unshare");
    command
        .args(["--mount", "sh", "-c", WITH_TRACEFS])
        .arg(program)
        .args(arguments);
    command
}
