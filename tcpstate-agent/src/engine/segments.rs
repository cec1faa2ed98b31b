//! The segments thread: follows the network interfaces.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tracing::warn;

use super::pulse::Pulse;
use crate::collect::segments::{Follower, SegmentsReading};

/// How late an interface that has come is counted.
const INTERVAL: Duration = Duration::from_secs(1);
/// A stop waits for it.
const NAP: Duration = Duration::from_millis(100);

/// What a scrape reads from, and never waits for: attaching to an interface can take a driver
/// seconds.
pub(super) struct Followed<F, R> {
    follower: Mutex<F>,
    /// Written only by who holds the follower, so that it never goes back. Held for a copy.
    last: Mutex<R>,
}

/// The network interfaces.
pub(super) type Interfaces = Followed<Follower, SegmentsReading>;

impl Interfaces {
    pub(super) fn new(mut follower: Follower) -> Self {
        Self {
            last: Mutex::new(follower.read()),
            follower: Mutex::new(follower),
        }
    }
}

impl<F, R: Clone> Followed<F, R> {
    /// What there is to read now, or was when the follower was last at rest.
    pub(super) fn read_with(&self, read: impl FnOnce(&mut F) -> R) -> R {
        let mut follower = match self.follower.try_lock() {
            Ok(follower) => follower,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return lock(&self.last).clone(),
        };
        let now = read(&mut follower);
        lock(&self.last).clone_from(&now);
        drop(follower);
        now
    }

    /// Moves the follower on, however long that takes, and takes note of what there is to read
    /// then.
    fn move_on<T>(&self, work: impl FnOnce(&mut F) -> T, read: impl FnOnce(&mut F) -> R) -> T {
        let mut follower = lock(&self.follower);
        let outcome = work(&mut follower);
        let now = read(&mut follower);
        *lock(&self.last) = now;
        drop(follower);
        outcome
    }
}

pub(super) fn run(interfaces: &Interfaces, is_stopped: &AtomicBool, pulse: &Pulse) {
    let is_stopped = || is_stopped.load(Ordering::Relaxed);
    let mut has_failed = false;
    while !is_stopped() {
        let outcome = interfaces.move_on(Follower::follow, Follower::read);
        if let Err(error) = &outcome
            && !has_failed
        {
            warn!(%error, "cannot look at the network interfaces");
        }
        has_failed = outcome.is_err();
        let mut slept = Duration::ZERO;
        while slept < INTERVAL && !is_stopped() {
            pulse.beat();
            std::thread::sleep(NAP);
            slept += NAP;
        }
    }
}

/// A panic while a lock was held has been reported by then; the value is still a value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    /// A follower is a number here, and to read it is to look at it.
    const fn read(number: &mut u64) -> u64 {
        *number
    }

    #[test]
    fn a_reading_waits_for_no_interface_and_never_goes_back() {
        let followed = &Followed {
            follower: Mutex::new(5_u64),
            last: Mutex::new(3),
        };
        assert_eq!(followed.read_with(read), 5);
        let (begun, is_begun) = mpsc::channel();
        let (end, may_end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let attaching = scope.spawn(move || {
                let work = |number: &mut u64| {
                    *number = 8;
                    begun.send(()).unwrap();
                    let _ = may_end.recv_timeout(Duration::from_secs(5));
                    *number = 9;
                };
                followed.move_on(work, read);
            });
            is_begun.recv().unwrap();
            // Were this to wait, it would find 9.
            assert_eq!(followed.read_with(read), 5);
            let _ = end.send(());
            attaching.join().unwrap();
        });
        assert_eq!(*lock(&followed.last), 9);
        assert_eq!(followed.read_with(read), 9);
    }
}
