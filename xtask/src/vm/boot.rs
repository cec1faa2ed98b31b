//! An emulator, from its start to its end: nothing of it outlives xtask.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::{console::Console, matrix::Architecture};

/// A virtual machine that says nothing for that long has hung. A test may take less.
const SILENCE: Duration = Duration::from_secs(150);
/// However much it says.
const LIMIT: Duration = Duration::from_mins(15);

const MEMORY: &str = "1024";

/// How a boot ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) console: Console,
    /// Why there is no result, where there is none.
    pub(crate) failure: Option<String>,
}

/// What to boot.
pub(crate) struct Machine<'a> {
    pub(crate) architecture: Architecture,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// Gets all that is printed on the console.
    pub(crate) log: &'a Path,
}

impl Machine<'_> {
    /// Boots it and waits for its end. `on_line` sees each line and what is known after it.
    pub(crate) fn boot(&self, mut on_line: impl FnMut(&str, &Console)) -> Result<Ended> {
        let mut log = File::create(self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut emulator = Emulator::start(self.command())?;
        let lines = emulator.lines()?;
        let start = Instant::now();
        let mut console = Console::default();
        let failure = loop {
            let rest = LIMIT.saturating_sub(start.elapsed());
            match lines.recv_timeout(SILENCE.min(rest)) {
                Ok(line) => {
                    log.write_all(line.as_bytes())
                        .with_context(|| format!("cannot write {}", self.log.display()))?;
                    console.line(&line);
                    on_line(&line, &console);
                }
                Err(RecvTimeoutError::Disconnected) if console.is_done => break None,
                Err(RecvTimeoutError::Disconnected) => {
                    let status = emulator.0.wait().context("cannot wait for the emulator")?;
                    break Some(format!(
                        "it ended without a result, the emulator with {status}"
                    ));
                }
                Err(RecvTimeoutError::Timeout) if rest <= SILENCE => {
                    break Some(format!("it did not end within {} s", LIMIT.as_secs()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    break Some(format!("it said nothing for {} s", SILENCE.as_secs()));
                }
            }
        };
        Ok(Ended { console, failure })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(emulator(self.architecture).0);
        // One thread for all CPUs: with more, guests crash while the kernel patches its own code.
        command.args(["-accel", "tcg,thread=single", "-smp", "2", "-m", MEMORY]);
        let console = match self.architecture {
            Architecture::Amd64 => {
                command.args(["-M", "q35", "-cpu", "Nehalem"]);
                "ttyS0"
            }
            Architecture::Arm64 => {
                command.args(["-M", "virt,gic-version=3", "-cpu", "cortex-a57"]);
                "ttyAMA0"
            }
        };
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-nic",
                "none",
            ])
            .args(["-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            .arg(format!(
                "console={console} panic=-1 reboot=t quiet loglevel=4 {}",
                // What would take a real CPU no time, and an emulated one a third of it.
                "nokaslr mitigations=off init_on_alloc=0 apparmor=0 audit=0"
            ));
        command
    }
}

/// The program, and the Debian package it is in.
pub(crate) fn emulator(architecture: Architecture) -> (&'static str, &'static str) {
    match architecture {
        Architecture::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Architecture::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
    }
}

/// All of them.
pub(crate) fn emulators() -> [(&'static str, &'static str); 2] {
    Architecture::ALL.map(emulator)
}

/// Ended when this is dropped, and when xtask ends, however that comes about.
struct Emulator(Child);

impl Emulator {
    fn start(mut command: Command) -> Result<Self> {
        let parent = rustix::process::getpid();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // SAFETY: the closure makes two system calls between fork and exec, and those are
        // async-signal-safe.
        let command = unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before it could be known.
                if getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(rustix::io::Errno::SRCH.into())
                }
            })
        };
        let program = command.get_program().display().to_string();
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        Ok(Self(child))
    }

    /// What comes from its console.
    fn lines(&mut self) -> Result<mpsc::Receiver<String>> {
        let stdout: ChildStdout = self.0.stdout.take().context("the console is not piped")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut console = BufReader::new(stdout);
            let mut bytes = Vec::new();
            // Ends with the emulator, or when nobody listens any more.
            while console
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|read| read > 0)
            {
                if sender
                    .send(String::from_utf8_lossy(&bytes).into_owned())
                    .is_err()
                {
                    return;
                }
                bytes.clear();
            }
        });
        Ok(receiver)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
