//! `where`: where in the code of a process its leaked sockets were last used, and what its threads
//! wait for.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use tcpstate_common::ThreadRecord;

use super::{
    interval,
    output::{Output, print},
};
use crate::{
    code_location::{
        elsewhere::KernelDescriptors,
        inspect::{self, Inspection},
        patience::{Patience, limit_memory},
        report::{Known, Sockets, write_text},
        target::{self, Candidate, Wanted},
        watch::{ProcessHandle, watch},
    },
    host::process::terminal_text,
    kernel::{AcceptHook, Hooks, ReadHook, StackSamples},
};

/// Flags of `where`.
#[derive(Args, Clone, Debug)]
pub(super) struct WhereArgs {
    /// Which process.
    #[command(flatten)]
    pub(super) process: WhichProcess,
    /// How long to watch, in seconds; 0 only tells what the threads do now
    #[arg(
        long,
        env = "TCPSTATE_WHERE_SECONDS",
        value_name = "SECONDS",
        default_value = "30",
        allow_negative_numbers = true,
        value_parser = interval
    )]
    pub(super) seconds: Duration,
    /// Tell where connections are accepted too. Where the kernel shows that by system calls only,
    /// each system call of the host takes some 10 to 40 ns longer meanwhile, and the command says so
    #[arg(long, env = "TCPSTATE_WHERE_ACCEPT")]
    pub(super) accept: bool,
    /// Output format
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

/// Which process to look at. Of several that fit, the one with the most sockets in CLOSE_WAIT.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct WhichProcess {
    /// The process with this number
    #[arg(
        long,
        env = "TCPSTATE_WHERE_PID",
        value_name = "PID",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(super) pid: Option<u32>,
    /// The process that listens on this port, or is connected to it
    #[arg(
        long,
        env = "TCPSTATE_WHERE_PORT",
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(super) port: Option<u16>,
    /// The process of this name (comm)
    #[arg(long, env = "TCPSTATE_WHERE_PROCESS", value_name = "NAME")]
    pub(super) process: Option<String>,
    /// The process of this systemd unit
    #[arg(long, env = "TCPSTATE_WHERE_UNIT", value_name = "UNIT")]
    pub(super) unit: Option<String>,
}

/// Settings of `where`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WhereSettings {
    /// Which process to look at.
    pub(super) wanted: Wanted,
    /// For how long to watch it; zero for not at all.
    pub(super) duration: Duration,
    /// Whether to see accepts too.
    pub(super) accepts: bool,
    /// How to print it.
    pub(super) output: Output,
}

impl From<WhereArgs> for WhereSettings {
    fn from(args: WhereArgs) -> Self {
        let WhereArgs {
            process,
            seconds,
            accept,
            output,
        } = args;
        let WhichProcess {
            pid,
            port,
            process,
            unit,
        } = process;
        // One of them is there, and no more than one: the command line sees to it.
        let wanted = pid
            .map(Wanted::Pid)
            .or(port.map(Wanted::Port))
            .or(process.map(Wanted::Process))
            .unwrap_or_else(|| Wanted::Unit(unit.unwrap_or_default()));
        Self {
            wanted,
            duration: seconds,
            accepts: accept,
            output,
        }
    }
}

/// How long the tables of the process may be read before, and after, the watch. Naming gives up
/// by itself earlier than that.
const PATIENCE: Duration = Duration::from_secs(30);

/// Watches, and prints what was found.
pub(super) fn execute(settings: &WhereSettings) -> anyhow::Result<()> {
    let stop = stop_on_first_signal().context("cannot handle signals")?;
    let watches = !settings.duration.is_zero();
    if watches {
        target::check_pid_namespace()?;
    }
    let mut kernel_descriptors = KernelDescriptors::new(watches);
    let target = target::find(&settings.wanted, &mut kernel_descriptors)?;
    let pid = target.process.pid;
    let process = ProcessHandle::open(pid).with_context(|| format!("cannot open process {pid}"))?;
    let samples = watches.then(|| StackSamples::load(pid)).transpose();
    let mut samples = samples.with_context(|| format!("cannot watch process {pid}"))?;
    // From here on there is nothing that the process has not chosen.
    limit_memory();
    let patience = Patience::with(pid, PATIENCE);
    let mut inspection = Inspection::of(pid, kernel_descriptors);
    inspection.look_for_python(&threads_of(samples.as_mut())?);
    let mut before = Known::default();
    let seen = if let Some(samples) = &mut samples {
        if let Some(python) = &inspection.python {
            samples.follow_python(python.layout())?;
        }
        before = inspection.known();
        let hooks = samples.attach(settings.accepts)?;
        announce(&target.process, settings.duration, hooks);
        patience.begin_again(settings.duration + PATIENCE);
        Some(watch(
            samples,
            hooks,
            &process,
            &mut inspection.modules,
            inspection.python.as_mut(),
            settings.duration,
            &stop,
        )?)
    } else {
        None
    };
    patience.begin_again(PATIENCE);
    inspection.begin_to_name();
    let threads = inspection.threads(&threads_of(samples.as_mut())?);
    let sockets = Sockets {
        before_watch: before,
        ..inspection.sockets()
    };
    let now = now_ns();
    let places = inspection.name(seen.as_ref().map_or(&[], |seen| &seen.stacks));
    inspection.note_runtimes();
    drop(patience);
    let unsure = target.unsure.iter().cloned();
    let notes = unsure.chain(inspection.notes).collect();
    let report = inspect::report(
        &target,
        seen.as_ref(),
        &places,
        &sockets,
        threads,
        now,
        notes,
    );
    print(|out| match settings.output {
        Output::Text => write_text(out, &report),
        Output::Json => {
            let json = serde_json::to_string(&report)?;
            writeln!(out, "{json}")
        }
    })?;
    Ok(())
}

/// The registers of the process's threads; none where nothing is in the kernel to ask for them.
fn threads_of(samples: Option<&mut StackSamples>) -> anyhow::Result<Vec<ThreadRecord>> {
    Ok(samples.map_or_else(|| Ok(Vec::new()), StackSamples::threads)?)
}

/// Becomes true on SIGINT and SIGTERM. A second one ends the process at once, whatever it is at.
fn stop_on_first_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: it asks whether there was one before.
        flag::register_conditional_default(signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Says that it has begun, and what it costs the host where that is not next to nothing.
#[expect(clippy::print_stderr, reason = "for the person who waits")]
fn announce(process: &Candidate, duration: Duration, hooks: Hooks) {
    let Candidate { pid, name, .. } = process;
    let name = terminal_text(name.as_bytes());
    eprintln!("watching {name} (pid {pid}) for {duration:?}; interrupt it to end earlier");
    for (what, nanoseconds) in [
        (
            "reads",
            match hooks.read {
                ReadHook::SocketRead | ReadHook::FunctionExit => 0,
                ReadHook::SystemCall => 40,
            },
        ),
        (
            "accepts",
            match hooks.accept {
                None | Some(AcceptHook::FunctionExit) => 0,
                Some(AcceptHook::SystemCall) => 10,
                Some(AcceptHook::EverySystemCall) => 40,
            },
        ),
    ] {
        if nanoseconds > 0 {
            eprintln!(
                "this kernel shows {what} at the end of system calls only: each system call of the \
                 host takes some {nanoseconds} ns longer meanwhile"
            );
        }
    }
}

/// `CLOCK_MONOTONIC`, as the kernel side has it.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
