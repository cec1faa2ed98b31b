//! Network namespaces of the benchmarks' own. They go with the process that lives in them.

use std::{
    fs::File,
    os::fd::AsFd as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    running::Running,
    worker::{Task, Worker},
};

/// How many sockets in TIME_WAIT a namespace may have here: the kernel's own limit would end some
/// of them early.
const TIME_WAIT_LIMIT: u32 = 2_000_000;

/// A namespace with its loopback up.
pub(crate) struct Namespace {
    /// Who lives in it.
    resident: Worker,
    file: File,
}

impl Namespace {
    pub(crate) fn new() -> Result<Self> {
        let namespace = Self::with(Task::hold(0))?;
        namespace.command(
            "sysctl",
            &[
                "-qw",
                &format!("net.ipv4.tcp_max_tw_buckets={TIME_WAIT_LIMIT}"),
            ],
        )?;
        Ok(namespace)
    }

    /// A namespace whose one process does this.
    pub(crate) fn with(task: Task) -> Result<Self> {
        let resident = Worker::start_in_new_namespace(task)?;
        resident.wait_until_ready(Duration::from_secs(30))?;
        let path = format!("/proc/{}/ns/net", resident.pid());
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { resident, file })
    }

    pub(crate) const fn resident(&mut self) -> &mut Worker {
        &mut self.resident
    }

    /// `program` in the namespace, killed with this process; for the main thread only.
    pub(crate) fn bound(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.resident.pid()))
            .args(["setpriv", "--pdeathsig", "KILL", "--", program]);
        command
    }

    /// Runs a program in the namespace; it must succeed.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let running = self.enter(|| {
            Running::start(
                program,
                Command::new(program).args(arguments).stdout(Stdio::null()),
            )
        })?;
        running.succeed(Duration::from_mins(5))
    }

    /// Does `work` on a thread inside the namespace. Sockets made there stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = &self.file;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter a network namespace")?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
