//! Whether each thread of the watch does its work: it says so itself, again and again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use thiserror::Error;

/// How long a thread may say nothing. All that one does at a time takes milliseconds; the rest is for
/// a host whose CPUs are wanted by others.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The same for the thread that attaches programs to network interfaces, which takes some drivers
/// seconds each.
pub(super) const PATIENCE_WITH_DRIVERS: Duration = Duration::from_mins(2);

/// A thread of the watch that does not do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unwell {
    /// It has ended, and will not come back.
    #[error("the thread {0} has stopped")]
    Stopped(&'static str),
    /// It has said nothing for so long.
    #[error("the thread {0} has been stuck for {seconds} s", seconds = .1.as_secs())]
    Silent(&'static str, Duration),
}

/// A thread's own word that it lives.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    /// When it was felt last, in milliseconds since it began.
    last_ms: AtomicU64,
}

impl Pulse {
    pub(super) fn begin() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            last_ms: AtomicU64::new(0),
        })
    }

    /// The thread does its work.
    pub(super) fn beat(&self) {
        self.last_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        let last = self.last_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.elapsed_ms().saturating_sub(last))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A thread, and how to tell how it is.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) thread: JoinHandle<()>,
    pub(super) pulse: Arc<Pulse>,
    /// How long it may say nothing.
    pub(super) patience: Duration,
}

impl Part {
    pub(super) fn health(&self) -> Result<(), Unwell> {
        if self.thread.is_finished() {
            return Err(Unwell::Stopped(self.name));
        }
        let silent = self.pulse.silent_for();
        if silent > self.patience {
            return Err(Unwell::Silent(self.name, silent));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    fn part(patience: Duration, work: impl FnOnce(&Pulse) + Send + 'static) -> Part {
        let pulse = Pulse::begin();
        let of_thread = Arc::clone(&pulse);
        Part {
            name: "ts-test",
            thread: thread::spawn(move || work(&of_thread)),
            pulse,
            patience,
        }
    }

    #[test]
    fn one_that_has_ended_is_told_from_one_that_is_stuck_and_from_one_that_works() {
        let (end, may_end) = mpsc::channel::<()>();
        let stuck = part(Duration::from_millis(20), move |_| {
            let _ = may_end.recv();
        });
        assert_eq!(stuck.health(), Ok(()));
        thread::sleep(Duration::from_millis(50));
        assert!(matches!(stuck.health(), Err(Unwell::Silent("ts-test", _))));
        stuck.pulse.beat();
        assert_eq!(stuck.health(), Ok(()));
        drop(end);
        while !stuck.thread.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(stuck.health(), Err(Unwell::Stopped("ts-test")));
    }
}
