//! Limits on this process while it reads what another one has chosen: tables that loop for ever or
//! take all memory end it, with a word about why.

use std::{
    process,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The greatest programs have a few GiB of debug information.
const MEMORY_BYTES: u64 = 8 << 30;

/// Ends the process where its work is not done in time. Dropping it ends the waiting.
pub struct Patience(mpsc::Sender<Duration>);

impl Patience {
    /// Begins to wait, for so long at first.
    #[must_use]
    pub fn with(pid: u32, first: Duration) -> Self {
        let (more, next) = mpsc::channel();
        // Where no thread can be made there is no patience either, and still the memory's limit.
        let _ = thread::Builder::new()
            .name("patience".to_owned())
            .spawn(move || wait(pid, first, &next));
        Self(more)
    }

    /// From now on waits for so long.
    pub fn begin_again(&self, patience: Duration) {
        let _ = self.0.send(patience);
    }
}

#[expect(clippy::print_stderr, reason = "for the person who waits")]
fn wait(pid: u32, first: Duration, next: &mpsc::Receiver<Duration>) {
    let mut patience = first;
    loop {
        match next.recv_timeout(patience) {
            Ok(again) => patience = again,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                eprintln!(
                    "the tables of {pid} could not be read in {} s",
                    patience.as_secs()
                );
                process::exit(1);
            }
        }
    }
}

/// Bounds the memory of this process. It has no core file either: what filled it is not its own.
pub fn limit_memory() {
    for (resource, most) in [(Resource::As, MEMORY_BYTES), (Resource::Core, 0)] {
        let Rlimit { current, maximum } = getrlimit(resource);
        let current = current.map_or(most, |current| current.min(most));
        // Lowering one's own limit takes no permission.
        let _ = setrlimit(
            resource,
            Rlimit {
                current: Some(current),
                maximum,
            },
        );
    }
}
