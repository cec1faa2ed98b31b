//! What a process of this program does before its `main`, which is the test runner's.
//!
//! The program is run as the tests and, by these, as the processes that they watch ([`actor`]). The
//! latter must not become a test runner. The former have the kernel to themselves, be they all in
//! one process or each in one of its own: a lock keeps other runs away, and what is in one process
//! runs one after the other.

use std::{
    env,
    fs::{self, File, TryLockError},
    io,
    os::fd::IntoRawFd as _,
    process,
};

use crate::actor;

/// For all runs on this machine, whoever's checkout they are from.
const LOCK: &str = "/run/tcpstate-privileged-tests.lock";

// SAFETY: the C library calls each function of this section once, with arguments that one without
// parameters ignores. It is itself ready then. Of the standard library `main` would yet prepare the
// arguments, what SIGPIPE does and what is said of a stack that overflows; none of it is used here.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    actor::play_if_told();
    if is_list() {
        return;
    }
    if let Err(error) = lock() {
        complain(&format!(
            "cannot lock {LOCK}: {error} (these tests take root)"
        ));
        process::exit(1);
    }
    // SAFETY: no other thread has been started yet that could read the environment.
    unsafe { env::set_var("RUST_TEST_THREADS", "1") };
}

/// Whether the tests are not to be run, but named.
fn is_list() -> bool {
    let arguments = fs::read("/proc/self/cmdline").unwrap_or_default();
    arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument == b"--list")
}

/// Waits until nobody else has the lock, and keeps it until this process ends.
fn lock() -> io::Result<()> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(LOCK)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            complain(&format!("another run has {LOCK}: waiting for its end"));
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let _ = file.into_raw_fd();
    Ok(())
}

#[expect(clippy::print_stderr, reason = "read by who runs the tests")]
fn complain(text: &str) {
    eprintln!("{text}");
}
