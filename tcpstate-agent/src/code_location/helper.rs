//! What the threads of other processes wait for, told by processes of their own.
//!
//! The tables, names and memory that lead there are the watched processes' to choose: tables that
//! loop for ever or nest without end must take a helper with them, and never who has asked.

use std::{
    io::{self, Read as _},
    os::{fd::AsFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Resource, Rlimit, prlimit},
};
use serde::Deserialize;
use tracing::debug;

use super::waits::ThreadGroup;

/// Processes beyond that are not asked about.
const MAX_PROCESSES: usize = 8;
/// A helper that takes longer is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// More of what it says is not read.
const MAX_OUTPUT: usize = 1 << 20;
/// How long a helper that was killed may take to go.
const PATIENCE_WITH_DEAD: Duration = Duration::from_millis(500);

/// What a helper may use.
const LIMITS: [(Resource, u64); 3] = [
    // Bytes.
    (Resource::As, 2 << 30),
    // Seconds.
    (Resource::Cpu, 5),
    // One that is ended by these is nothing to keep.
    (Resource::Core, 0),
];

/// Asks about each process once.
#[derive(Debug)]
pub struct Helpers {
    program: PathBuf,
    told: FxHashMap<u32, Option<String>>,
}

/// The part of a report that is asked for.
#[derive(Deserialize)]
struct Told {
    threads: Vec<ThreadGroup>,
}

impl Helpers {
    /// Helpers that run an agent; `/proc/self/exe` is the one that asks.
    #[must_use]
    pub fn with_program(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            told: FxHashMap::default(),
        }
    }

    /// What most threads of a process wait for, on one line; `None` where none waits, where that
    /// cannot be told, and for processes beyond the first few.
    pub fn what_most_threads_wait_for(&mut self, pid: u32) -> Option<String> {
        if let Some(known) = self.told.get(&pid) {
            return known.clone();
        }
        if self.told.len() == MAX_PROCESSES {
            return None;
        }
        let mut helper = Command::new(&self.program);
        helper
            .args(["where", "--seconds", "0", "--output", "json", "--pid"])
            .arg(pid.to_string())
            // Settings of this command are none of that one's.
            .env_clear();
        let told = output(&mut helper, PATIENCE)
            .inspect_err(|error| debug!(pid, %error, "what its threads wait for is not told"))
            .ok();
        let line = told.and_then(|told| line(&told));
        self.told.insert(pid, line.clone());
        line
    }
}

/// The line of the threads that wait for a connection in CLOSE_WAIT, each mostly for another; else of
/// most threads that wait.
fn line(report: &[u8]) -> Option<String> {
    let told: Told = serde_json::from_slice(report).ok()?;
    let mut waiting = told.threads.iter().filter(|group| group.call.is_some());
    let most = waiting.clone().next()?;
    let Some(first) = waiting.find(|group| group.is_for_close_wait()) else {
        return Some(most.line());
    };
    let alike: Vec<&ThreadGroup> = told
        .threads
        .iter()
        .filter(|group| group.is_for_close_wait() && group.call == first.call)
        .collect();
    if alike.len() == 1 {
        return Some(first.line());
    }
    let all = ThreadGroup {
        threads: alike.iter().map(|group| group.threads).sum(),
        on: Some("connections in CLOSE_WAIT, each on its own".to_owned()),
        ..first.clone()
    };
    Some(all.line())
}

/// What a program writes until it ends; an error where it takes too long or says too much. It has
/// gone when this returns.
fn output(command: &mut Command, patience: Duration) -> io::Result<Vec<u8>> {
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // An interrupt is for who has asked.
        .process_group(0)
        .spawn()?;
    let output = limit(&child).and_then(|()| read(&mut child, begun + patience));
    end(&mut child);
    output
}

fn limit(child: &Child) -> io::Result<()> {
    let pid = Pid::from_child(child);
    for (resource, most) in LIMITS {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        prlimit(Some(pid), resource, limit)?;
    }
    Ok(())
}

fn read(child: &mut Child, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut output = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut ready = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let length = stdout.read(&mut buffer)?;
        if length == 0 {
            return Ok(output);
        }
        if output.len() + length > MAX_OUTPUT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        output.extend_from_slice(&buffer[..length]);
    }
}

/// Kills it, and reaps it where it goes: a read of a file system that does not answer cannot be
/// ended.
fn end(child: &mut Child) {
    let _ = child.kill();
    let killed = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && killed.elapsed() < PATIENCE_WITH_DEAD {
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_helper_that_never_ends_is_killed() {
        for script in ["while :; do :; done", "exec sleep 1000"] {
            let begun = Instant::now();
            let error = output(&mut shell(script), Duration::from_millis(300)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
            assert!(begun.elapsed() < Duration::from_secs(3), "{script}");
        }
    }

    #[test]
    fn a_helper_that_says_too_much_is_not_listened_to() {
        let error = output(&mut shell("exec yes"), PATIENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_helper_has_little_memory_and_little_time() {
        // The limits are set right after it has begun.
        let said = output(
            &mut shell("sleep 0.3; ulimit -v; ulimit -t; ulimit -c"),
            PATIENCE,
        );
        assert_eq!(said.unwrap(), b"2097152\n5\n0\n");
    }

    #[test]
    fn the_first_group_that_waits_is_told_and_what_is_no_report_is_not() {
        let report = br#"{"schema_version": 1, "threads": [
            {"threads": 9, "of": 12, "call": null, "on": null, "running": true,
             "kernel_function": null, "place": null},
            {"threads": 3, "of": 12, "call": "futex", "on": null, "running": false,
             "kernel_function": "futex_wait", "place": null}]}"#;
        let expected = "3 of 12 threads wait in futex";
        assert_eq!(line(report).as_deref(), Some(expected));
        assert_eq!(line(&report[..report.len() - 1]), None);
        assert_eq!(line(b""), None);
    }

    #[test]
    fn threads_that_wait_for_connections_in_close_wait_are_told_together() {
        let group = |threads: u64, call: &str, on: &str| {
            format!(
                r#"{{"threads": {threads}, "of": 9, "call": "{call}", "on": {on}, "running": false,
                    "kernel_function": null, "place": null}}"#
            )
        };
        let to = |port: u16| format!(r#""connection to 10.0.0.7:{port} (CLOSE_WAIT)""#);
        let line = |groups: &[String]| {
            line(format!(r#"{{"threads": [{}]}}"#, groups.join(",")).as_bytes())
        };
        let idle = || group(5, "futex", "null");
        let one = [idle(), group(1, "sendto", &to(1))];
        assert_eq!(
            line(&one).as_deref(),
            Some("1 of 9 threads waits in sendto on connection to 10.0.0.7:1 (CLOSE_WAIT)")
        );
        let several = [
            idle(),
            group(1, "sendto", &to(1)),
            group(2, "sendto", &to(2)),
        ];
        assert_eq!(
            line(&several).as_deref(),
            Some("3 of 9 threads wait in sendto on connections in CLOSE_WAIT, each on its own")
        );
    }

    #[test]
    fn no_more_than_a_few_processes_are_asked_about() {
        let mut helpers = Helpers::with_program("/nonexistent");
        for pid in 1..=8 {
            assert_eq!(helpers.what_most_threads_wait_for(pid), None);
        }
        helpers.told.insert(3, Some("3".to_owned()));
        assert_eq!(helpers.what_most_threads_wait_for(3).as_deref(), Some("3"));
        assert_eq!(helpers.what_most_threads_wait_for(99), None);
        assert_eq!(helpers.told.len(), MAX_PROCESSES);
    }
}
