//! The watch over the host: keeps the model true, and answers scrapes from it.
//!
//! Three threads, and a fourth where segments are counted, because each waits for something else and
//! none may hold up another; the one that answers commands ([`control`](crate::serve::control)) calls in
//! too:
//!
//! - *counting* finds namespaces, enters them in turn and takes snapshots, within its budget;
//! - *scraping* answers requests: it reads the live counters and what else is fresh and cheap,
//!   entering namespaces too, and never waits for a long snapshot;
//! - *events* empties the ring buffer;
//! - *segments* follows the network interfaces.
//!
//! They share the kernel's maps and the model, each behind a lock that is held for a few system
//! calls, never for a walk over sockets or descriptors; only the lock on the snapshot pass is held
//! for as long as one takes, and that on the follower of network interfaces for as long as
//! attaching to one does: a scrape waits for neither. Those of the listening sockets can be held
//! for the milliseconds that it takes to read ten thousand of them. Locks are taken in the order
//! snapshot pass, namespaces, flow.

mod charge;
mod close_wait;
mod connections;
mod count;
mod counting;
mod events;
mod kernel;
mod learn;
mod listeners;
mod outgoing;
mod reading;
mod scraping;
mod search;
mod segments;
mod shared;

use std::{
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

pub use close_wait::{CloseWait, OwnedGroup};
pub use connections::Connections;
pub use listeners::{ListenersReading, OwnedListener};
pub use outgoing::OutgoingReading;
pub use reading::{
    CloseWaitReading, Events, NamespaceReading, NamespaceResults, Reading, SnapshotState,
};

use crate::{bpf::Loaded, netns::Visitor, recent_ends::RecentEnds, segments::Follower};
use count::Walk;
use scraping::Request;
use shared::{Progress, Shared};

/// The running watch. Dropping it stops the threads and takes the programs out of the kernel.
pub struct Watch {
    shared: Arc<Shared>,
    requests: Option<mpsc::Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
}

/// How to watch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WatchSettings {
    /// Share of one core that background snapshots use, in percent.
    pub cpu_percent: f64,
    /// Groups of sockets in CLOSE_WAIT that have series of their own: so many of the largest, and
    /// so many of the oldest.
    pub close_wait_top: usize,
    /// Listeners that have series of their own.
    pub listeners_top: usize,
    /// Destinations of outgoing connections that have series of their own, for each metric.
    pub destinations_top: usize,
}

/// The watch no longer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watch has stopped")]
pub struct Stopped;

impl Watch {
    /// Starts to watch with what was loaded.
    pub fn start(loaded: Loaded, settings: WatchSettings) -> io::Result<Self> {
        Self::start_with_segments(loaded, None, settings)
    }

    /// The same, and has `segments` follow the network interfaces.
    pub fn start_with_segments(
        loaded: Loaded,
        segments: Option<Follower>,
        settings: WatchSettings,
    ) -> io::Result<Self> {
        let follows = segments.is_some();
        let (shared, kernel_log) = Shared::new(loaded, segments, settings);
        let (requests, incoming) = mpsc::channel();
        let mut watch = Self {
            shared: Arc::clone(&shared),
            requests: Some(requests),
            threads: Vec::new(),
        };
        let counting = Arc::clone(&shared);
        watch.spawn("ts-counting", move || {
            counting::run(&counting, settings.cpu_percent);
        })?;
        let scraping = Arc::clone(&shared);
        watch.spawn("ts-scraping", move || scraping::run(&scraping, &incoming))?;
        if follows {
            let segments = Arc::clone(&shared);
            watch.spawn("ts-segments", move || segments::run(&segments))?;
        }
        watch.spawn("ts-events", move || events::run(&shared, kernel_log))?;
        Ok(watch)
    }

    /// What the kernel holds now. Takes milliseconds; blocks, so never call it on a worker of
    /// the async runtime.
    pub fn read(&self) -> Result<Arc<Reading>, Stopped> {
        let (answer, answered) = mpsc::channel();
        self.requests
            .as_ref()
            .ok_or(Stopped)?
            .send(answer)
            .map_err(|_| Stopped)?;
        answered.recv().map_err(|_| Stopped)
    }

    /// Whether every namespace that can be reached has been counted once. Stays true.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.progress() == Progress::Ready
    }

    /// Waits until [`Watch::is_ready`], at most `timeout`. Returns whether it is.
    #[must_use]
    pub fn wait_until_ready(&self, timeout: Duration) -> bool {
        self.shared.wait_until_ready(timeout)
    }

    /// Whether every thread of the watch does its work.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Finds out now who keeps sockets in CLOSE_WAIT, whatever it costs; `None` where that cannot
    /// be told. Waits for a walk that is under way. `visitor` is at home where the agent is.
    #[must_use]
    pub fn close_wait(&self, visitor: &Visitor) -> Option<Arc<CloseWait>> {
        self.shared.name_close_wait(visitor, Walk::Waits)
    }

    /// Looks now at where connections go and which peers do not answer; `None` where that cannot
    /// be told. Waits for a walk that is under way. `visitor` as above.
    #[must_use]
    pub fn connections(&self, visitor: &Visitor) -> Option<Connections> {
        self.shared.connections(visitor)
    }

    /// What listens now, with its owners; `None` where that cannot be told. Waits for a walk that
    /// is under way.
    #[must_use]
    pub fn listeners(&self) -> Option<Vec<OwnedListener>> {
        self.shared.owned_listeners()
    }

    /// The connections that ended abnormally, as far as they are kept.
    #[must_use]
    pub fn recent_ends(&self) -> RecentEnds {
        self.shared.recent_ends()
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.requests = None;
        self.shared.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the watch panicked");
            }
        }
    }
}
