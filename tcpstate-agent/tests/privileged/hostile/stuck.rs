//! A thread that hangs: the agent says so, and can be ended all the same.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{
    agent::Agent,
    harness::{require, within},
};

/// Longer than the agent lets a thread say nothing.
const NOTICED: Duration = Duration::from_secs(90);

/// A thread of another process that is held still. When this is dropped it goes on.
struct Held(libc::pid_t);

impl Held {
    /// Holds the thread of this name.
    fn hold(process: Pid, name: &str) -> Self {
        let folder = format!("/proc/{process}/task");
        let mut threads = fs::read_dir(folder).unwrap().map(Result::unwrap);
        let is_named = |thread: &fs::DirEntry| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let thread = threads.find(is_named);
        let thread = thread.unwrap_or_else(|| panic!("no thread {name}"));
        let thread: libc::pid_t = thread.file_name().to_str().unwrap().parse().unwrap();
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: neither request takes or gives memory of this process.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, nothing) };
        assert_eq!(seized, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: as above.
        let stopped = unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing) };
        assert_eq!(stopped, 0, "{}", std::io::Error::last_os_error());
        let held = Self(thread);
        // It has stopped when it can be waited for.
        held.wait();
        held
    }

    fn wait(&self) {
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL) };
    }

    /// Waits until it has ended: until then its process has not.
    fn ended(self) {
        self.wait();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: it takes and gives no memory of this process. It fails where the thread has ended.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, nothing, nothing) };
    }
}

/// Empties the socket; whether the agent has said so meanwhile.
fn has_said(manager: &UnixDatagram, what: &str) -> bool {
    let mut bytes = [0; 256];
    let mut has_said = false;
    while let Ok(length) = manager.recv(&mut bytes) {
        has_said |= &bytes[..length] == what.as_bytes();
    }
    has_said
}

#[test]
fn a_thread_that_hangs_is_named_and_keeps_nobody_from_ending_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let agent = Agent::start_in([
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "2000000"),
    ]);
    within(Duration::from_secs(10), || {
        require(
            has_said(&manager, "READY=1"),
            "it does not say that it has started",
        )
    });
    within(Duration::from_secs(10), || {
        require(
            has_said(&manager, "WATCHDOG=1"),
            "it does not say that it lives",
        )
    });

    let held = Held::hold(agent.pid(), "ts-reader");
    within(NOTICED, || match agent.get("/-/healthy") {
        (500, why) => require(why.contains("has been stuck"), why),
        (status, body) => Err(format!("{status} {body}")),
    });
    // What it shows is no page of zeros.
    assert_eq!(agent.get("/metrics").0, 500);
    has_said(&manager, "");
    std::thread::sleep(Duration::from_secs(4));
    assert!(!has_said(&manager, "WATCHDOG=1"), "it says that it lives");
    drop(held);
    within(Duration::from_secs(20), || match agent.get("/-/healthy") {
        (200, _) => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    });
    within(Duration::from_secs(10), || {
        require(
            has_said(&manager, "WATCHDOG=1"),
            "it does not say that it lives again",
        )
    });

    let held = Held::hold(agent.pid(), "ts-engine");
    let begun = Instant::now();
    agent.signal(Signal::TERM);
    held.ended();
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(begun.elapsed() < NOTICED, "it took {:?}", begun.elapsed());
    assert!(has_said(&manager, "STOPPING=1"));
}
