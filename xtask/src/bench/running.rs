//! Processes that are ended with their owner.

use std::{
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::stop;

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// A process that is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    name: String,
}

/// `program`, to be killed with this process even where that is killed itself. Only for the main
/// thread: the kernel looks at the thread that started it.
pub(crate) fn bound(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

impl Running {
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot send a signal to {}", self.name))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self) -> Result<()> {
        self.signal(rustix::process::Signal::TERM)?;
        self.finish(GRACE).map(drop)
    }

    /// Waits until it ends by itself.
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        stop::until(patience, &what, || self.has_ended())
    }

    /// The same, and fails unless it ended well.
    pub(crate) fn succeed(mut self, patience: Duration) -> Result<()> {
        let status = self.finish(patience)?;
        if !status.success() {
            bail!("{} failed: {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_program() -> Result<()> {
        let running = Running::start("false(1)", &mut Command::new("false"))?;
        let error = running.succeed(GRACE).expect_err("false succeeded");
        assert_eq!(error.to_string(), "false(1) failed: exit status: 1");
        Ok(())
    }

    #[test]
    fn what_is_dropped_has_ended() -> Result<()> {
        let running = Running::start("sleep(1)", Command::new("sleep").arg("600"))?;
        let folder = format!("/proc/{}", running.pid());
        assert!(std::path::Path::new(&folder).exists());
        drop(running);
        assert!(!std::path::Path::new(&folder).exists());
        Ok(())
    }
}
