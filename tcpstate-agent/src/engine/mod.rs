//! The watch over the host: keeps what is known true, and answers from it.
//!
//! One thread owns all that is known, the *engine*; it never waits for anything long. Another one,
//! the *reader*, runs the programs that read the kernel's tables. Two more wait for something: one for
//! the ring buffer to fill, and one, where segments are counted, for network interfaces to come and
//! go. All talk by messages.

mod budget;
mod close_wait;
mod facts;
mod listeners;
mod look;
mod namespaces;
mod outgoing;
mod reader;
mod reading;
mod scrape;
mod segments;
mod state;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub use crate::kernel::Faults;
pub use close_wait::{CloseWait, OwnedGroup};
pub use listeners::{ListenersReading, OwnedListener};
pub use outgoing::{Connections, OutgoingReading};
pub use reading::{CloseWaitReading, Events, NamespaceReading, Reading, SnapshotState};
pub use state::FaultSums;

use self::{
    look::Looked,
    reader::Reader,
    segments::Interfaces,
    state::{Engine, KernelSide},
};
use crate::{
    collect::{closes::RecentEnds, segments::Follower},
    kernel::{Loaded, ReadError, WakeUp},
};

/// How late a record is taken from the ring that nothing wakes the agent for.
const RING_INTERVAL: Duration = Duration::from_millis(100);

/// The running watch. Dropping it stops the threads and takes the programs out of the kernel.
pub struct Watch {
    engine: Sender<Message>,
    is_ready: Arc<AtomicBool>,
    is_stopped: Arc<AtomicBool>,
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
    /// Look only when somebody asks, and not beforehand.
    pub only_when_asked: bool,
}

/// What one look finds out for whoever asks for everything.
pub struct Seen {
    /// Who keeps sockets in CLOSE_WAIT; `None` where that cannot be told.
    pub close_wait: Option<Arc<CloseWait>>,
    /// Where connections go, and which peers do not answer; `None` where that cannot be told.
    pub connections: Option<Connections>,
    /// What listens.
    pub listeners: Vec<OwnedListener>,
}

/// The watch no longer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watch has stopped")]
pub struct Stopped;

/// What the engine is told.
enum Message {
    /// Somebody wants to know something.
    Ask(Question),
    /// The reader has looked.
    Looked(Result<Box<Looked>, ReadError>),
    /// There may be records in the ring. Says when it is empty.
    Drain(Sender<()>),
    /// To end.
    Stop,
}

/// What can be asked, and where to send the answer. One that cannot be told is dropped.
enum Question {
    /// What a scrape shows.
    Read(Sender<Arc<Reading>>),
    /// Who keeps sockets in CLOSE_WAIT.
    CloseWait(Sender<Arc<CloseWait>>),
    /// Where connections go, and which peers do not answer.
    Connections(Sender<Connections>),
    /// What listens.
    Listeners(Sender<Vec<OwnedListener>>),
    /// All of these, by one look.
    Everything(Sender<Seen>),
    /// The connections that ended abnormally.
    RecentEnds(Sender<RecentEnds>),
    /// To be told when the host has been counted once.
    Ready(Sender<()>),
}

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
        let Loaded {
            flow,
            events,
            tables,
            owners,
            synacks,
            resets,
            kernel_log,
            programs,
        } = loaded;
        let (engine, inbox) = channel();
        let mut watch = Self {
            engine: engine.clone(),
            is_ready: Arc::default(),
            is_stopped: Arc::default(),
            threads: Vec::new(),
        };
        let tells_owners = tables.is_some() && owners.is_some();
        let mut orders = None;
        if let Some(tables) = tables {
            let (sender, receiver) = channel();
            orders = Some(sender);
            let reader = Reader { tables, owners };
            let engine = engine.clone();
            watch.spawn("ts-reader", move || {
                reader::run(reader, &receiver, &engine);
            })?;
        }
        let interfaces = segments.map(|follower| Arc::new(Interfaces::new(follower)));
        if let Some(interfaces) = interfaces.clone() {
            let is_stopped = Arc::clone(&watch.is_stopped);
            watch.spawn("ts-segments", move || {
                segments::run(&interfaces, &is_stopped);
            })?;
        }
        if events.is_some() || kernel_log.is_some() {
            let wake_up = events.as_ref().and_then(|ring| {
                ring.wake_up()
                    .inspect_err(|error| {
                        tracing::warn!(%error, "cannot poll the event ring; falling back to a timer");
                    })
                    .ok()
            });
            watch.spawn("ts-ring", move || {
                wait_for_records(wake_up.as_ref(), &engine);
            })?;
        }
        let kernel = KernelSide {
            flow,
            events,
            kernel_log,
            resets,
            synacks,
            programs,
            segments: interfaces,
            orders,
            tells_owners,
        };
        let is_ready = Arc::clone(&watch.is_ready);
        watch.spawn("ts-engine", move || {
            Engine::new(kernel, settings, is_ready).run(&inbox);
        })?;
        Ok(watch)
    }

    /// What the kernel holds now. Takes milliseconds; blocks, so never call it on a worker of
    /// the async runtime.
    pub fn read(&self) -> Result<Arc<Reading>, Stopped> {
        self.ask(Question::Read).ok_or(Stopped)
    }

    /// Whether the host has been counted once. Stays true.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Waits until [`Watch::is_ready`], at most `timeout`. Returns whether it is.
    #[must_use]
    pub fn wait_until_ready(&self, timeout: Duration) -> bool {
        self.send(Question::Ready)
            .is_some_and(|answer| answer.recv_timeout(timeout).is_ok())
    }

    /// Whether every thread of the watch does its work.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Finds out now who keeps sockets in CLOSE_WAIT, whatever it costs; `None` where that cannot
    /// be told.
    #[must_use]
    pub fn close_wait(&self) -> Option<Arc<CloseWait>> {
        self.ask(Question::CloseWait)
    }

    /// Looks now at where connections go and which peers do not answer; `None` where that cannot
    /// be told.
    #[must_use]
    pub fn connections(&self) -> Option<Connections> {
        self.ask(Question::Connections)
    }

    /// What listens now, with its owners; `None` where that cannot be told.
    #[must_use]
    pub fn listeners(&self) -> Option<Vec<OwnedListener>> {
        self.ask(Question::Listeners)
    }

    /// Looks once at all of these; `None` where nothing can be told.
    #[must_use]
    pub fn everything(&self) -> Option<Seen> {
        self.ask(Question::Everything)
    }

    /// The connections that ended abnormally, as far as they are kept.
    #[must_use]
    pub fn recent_ends(&self) -> RecentEnds {
        self.ask(Question::RecentEnds).unwrap_or_default()
    }

    fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Question) -> Option<T> {
        self.send(question)?.recv().ok()
    }

    fn send<T>(&self, question: impl FnOnce(Sender<T>) -> Question) -> Option<Receiver<T>> {
        let (answer, answered) = channel();
        self.engine.send(Message::Ask(question(answer))).ok()?;
        Some(answered)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }
}

/// Has the engine empty the ring whenever there may be records in it.
fn wait_for_records(wake_up: Option<&WakeUp>, engine: &Sender<Message>) {
    loop {
        if wake_up.is_none_or(|wake_up| wake_up.wait(RING_INTERVAL).is_err()) {
            thread::sleep(RING_INTERVAL);
        }
        let (done, is_done) = channel();
        if engine.send(Message::Drain(done)).is_err() || is_done.recv().is_err() {
            return;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // Where the engine has ended there is nothing to stop.
        let _ = self.engine.send(Message::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the watch panicked");
            }
        }
    }
}
