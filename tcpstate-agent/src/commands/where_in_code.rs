//! `where`: where in the code of a process its leaked sockets were last used, and what its threads
//! wait for.

use std::time::Duration;

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};

use super::{print, stop_on_signal};
use crate::{
    bpf::{AcceptHook, Hooks, ReadHook, StackSamples},
    cli::Output,
    code_location::{
        inspect::{self, Inspection},
        report::write_text,
        target::{self, Candidate},
        watch::{ProcessHandle, watch},
    },
    settings::WhereSettings,
};

/// Watches, and prints what was found.
pub fn execute(settings: &WhereSettings) -> anyhow::Result<()> {
    let stop = stop_on_signal().context("cannot handle signals")?;
    target::check_pid_namespace()?;
    let target = target::find(&settings.wanted)?;
    let pid = target.process.pid;
    let process = ProcessHandle::open(pid).with_context(|| format!("cannot open process {pid}"))?;
    let mut samples =
        StackSamples::load(pid).with_context(|| format!("cannot watch process {pid}"))?;
    let mut inspection = Inspection::of(pid);
    inspection.look_for_python(&samples.threads()?);
    if let Some(python) = &inspection.python {
        samples.follow_python(python.layout())?;
    }
    let seen = if settings.duration.is_zero() {
        None
    } else {
        let hooks = samples.attach(settings.accepts)?;
        announce(&target.process, settings.duration, hooks);
        Some(watch(
            &mut samples,
            hooks,
            &process,
            &mut inspection.modules,
            inspection.python.as_mut(),
            settings.duration,
            &stop,
        )?)
    };
    let records = samples.threads()?;
    let threads = inspection.threads(&records);
    let sockets = inspection.sockets();
    let now = now_ns();
    let places = inspection.name(seen.as_ref().map_or(&[], |seen| &seen.stacks));
    inspection.note_runtimes();
    let notes = std::mem::take(&mut inspection.notes);
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

/// Says that it has begun, and what it costs the host where that is not next to nothing.
#[expect(clippy::print_stderr, reason = "for the person who waits")]
fn announce(process: &Candidate, duration: Duration, hooks: Hooks) {
    let Candidate { pid, name, .. } = process;
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
