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
mod pulse;
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
    thread,
    time::{Duration, Instant},
};

pub use crate::kernel::Faults;
pub use close_wait::{CloseWait, OwnedGroup};
pub use listeners::{ListenersReading, OwnedListener};
pub use outgoing::{Connections, OutgoingReading};
pub use pulse::Unwell;
pub use reading::{CloseWaitReading, Events, NamespaceReading, Reading, SnapshotState};
pub use state::FaultSums;

use self::{
    look::Looked,
    pulse::{PATIENCE, PATIENCE_WITH_DRIVERS, Part, Pulse},
    reader::Reader,
    segments::Interfaces,
    state::{Engine, KernelSide},
};
use crate::{
    collect::{NamedService, SeriesLimits, closes::RecentEnds, owners::Hidden, segments::Follower},
    kernel::{Loaded, ReadError, WakeUp},
};

/// How late a record is taken from the ring that nothing wakes the agent for.
const RING_INTERVAL: Duration = Duration::from_millis(100);
/// How long the threads may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How often to look whether they have.
const END_LOOK: Duration = Duration::from_millis(2);

/// The running watch. Dropping it stops the threads and takes the programs out of the kernel.
pub struct Watch {
    engine: Sender<Message>,
    is_ready: Arc<AtomicBool>,
    is_stopped: Arc<AtomicBool>,
    parts: Vec<Part>,
}

/// How to watch.
#[derive(Clone, Debug, PartialEq)]
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
    /// How many series may be new.
    pub series: SeriesLimits,
    /// Services that have series whatever others do.
    pub named: Vec<NamedService>,
    /// Labels of owners that are left out.
    pub hidden: Hidden,
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
            parts: Vec::new(),
        };
        let tells_owners = tables.is_some() && owners.is_some();
        let mut orders = None;
        if let Some(tables) = tables {
            let (sender, receiver) = channel();
            orders = Some(sender);
            let reader = Reader {
                tables,
                owners,
                former_listeners: Arc::default(),
            };
            let engine = engine.clone();
            watch.spawn("ts-reader", PATIENCE, move |pulse| {
                reader::run(reader, &receiver, &engine, pulse);
            })?;
        }
        let interfaces = segments.map(|follower| Arc::new(Interfaces::new(follower)));
        if let Some(interfaces) = interfaces.clone() {
            let is_stopped = Arc::clone(&watch.is_stopped);
            watch.spawn("ts-segments", PATIENCE_WITH_DRIVERS, move |pulse| {
                segments::run(&interfaces, &is_stopped, pulse);
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
            watch.spawn("ts-ring", PATIENCE, move |pulse| {
                wait_for_records(wake_up.as_ref(), &engine, pulse);
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
        watch.spawn("ts-engine", PATIENCE, move |pulse| {
            Engine::new(kernel, settings, is_ready).run(&inbox, pulse);
        })?;
        Ok(watch)
    }

    /// What the kernel holds now. Takes milliseconds; blocks, so never call it on a worker of
    /// the async runtime.
    pub fn read(&self) -> Result<Arc<Reading>, Stopped> {
        let answer = self.send(Question::Read).ok_or(Stopped)?;
        // Who waits longer waits for one that is stuck.
        answer.recv_timeout(PATIENCE).map_err(|_| Stopped)
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

    /// Whether every thread of the watch does its work. One that has stopped is named before one that
    /// is stuck, since it may be why.
    pub fn health(&self) -> Result<(), Unwell> {
        let unwell = self.parts.iter().filter_map(|part| part.health().err());
        let worst = unwell.min_by_key(|unwell| matches!(unwell, Unwell::Silent(..)));
        worst.map_or(Ok(()), Err)
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

    /// Starts a thread, which has to feel its pulse more often than every `patience`.
    fn spawn(
        &mut self,
        name: &'static str,
        patience: Duration,
        work: impl FnOnce(&Pulse) + Send + 'static,
    ) -> io::Result<()> {
        let pulse = Pulse::begin();
        let of_thread = Arc::clone(&pulse);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&of_thread))?;
        self.parts.push(Part {
            name,
            thread,
            pulse,
            patience,
        });
        Ok(())
    }
}

/// Has the engine empty the ring whenever there may be records in it.
fn wait_for_records(wake_up: Option<&WakeUp>, engine: &Sender<Message>, pulse: &Pulse) {
    loop {
        pulse.beat();
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
        let deadline = Instant::now() + END_PATIENCE;
        for Part { name, thread, .. } in self.parts.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(END_LOOK);
            }
            if !thread.is_finished() {
                // The kernel takes it, and all that it holds, with the process.
                tracing::error!(thread = name, "does not end, and is left behind");
            } else if thread.join().is_err() {
                tracing::error!(thread = name, "panicked");
            }
        }
    }
}
