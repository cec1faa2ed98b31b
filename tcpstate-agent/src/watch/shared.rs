//! What the threads of the watch share.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tcpstate_common::{NamespaceCounters, SocketCounts};
use tracing::warn;

use crate::{
    bpf::{EventRing, Flow, KernelLog, Loaded, PassError, ProgramStatus, SocketPass},
    model::{KernelTold, NamespaceModel, Pass},
    netns::{Namespace, SockStat, VisitError, Visitor, proc_mark},
    recent_ends::RecentEnds,
};

/// How long the events thread sleeps when nothing wakes it; a stop waits for it.
pub(super) const EVENT_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Shared {
    flow: Option<Mutex<Flow>>,
    socket_pass: Option<Mutex<SocketPass>>,
    pub(super) events: Option<Mutex<EventRing>>,
    pub(super) recent_ends: Mutex<RecentEnds>,
    pub(super) programs: Vec<ProgramStatus>,
    hosts: Mutex<Namespaces>,
    signals: Mutex<Signals>,
    signalled: Condvar,
}

/// The namespaces of the host as they are known.
#[derive(Default)]
pub(super) struct Namespaces {
    pub(super) watched: BTreeMap<u32, Watched>,
    /// Namespaces that cannot even be named.
    pub(super) hidden: u64,
    /// Namespaces in which there were transitions lately and that no route leads to.
    pub(super) unreachable: BTreeSet<u32>,
}

/// One namespace that was found.
pub(super) struct Watched {
    pub(super) namespace: Namespace,
    pub(super) model: Option<NamespaceModel>,
    /// Why it is not counted.
    pub(super) failure: Option<Failure>,
    /// How often in a row it was not found again.
    pub(super) missed: u8,
    /// There was no room for its live counters, and that has been said.
    pub(super) is_without_counters: bool,
    /// What [`proc_mark`] gives in it, once it has been entered.
    pub(super) mark: Option<u64>,
}

/// Why a namespace could not be counted, and when.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    pub(super) denied: bool,
    pub(super) at: Instant,
}

impl Watched {
    pub(super) fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            model: None,
            failure: None,
            missed: 0,
            is_without_counters: false,
            mark: None,
        }
    }
}

/// How far the watch has come since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// Not every namespace that was found has been counted; a sum would be only a part.
    #[default]
    Starting,
    /// All that were found at first sight have been.
    Counted,
    /// All have been that can be found at all.
    Ready,
}

/// What to do where another thread is walking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Wait for it to end.
    Waits,
    /// Do without.
    IfFree,
}

/// What came of counting.
enum Counted {
    /// A new snapshot.
    Anew(Box<Pass>),
    /// The last one still holds.
    Confirmed(Instant),
    /// Nothing: another thread is walking.
    Not,
}

#[derive(Default)]
struct Signals {
    stop: bool,
    discover: bool,
    progress: Progress,
}

/// What the counting thread was woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Stop,
    Discover,
    TimeOut,
}

impl Shared {
    pub(super) fn new(loaded: Loaded) -> (Arc<Self>, Option<KernelLog>) {
        let Loaded {
            flow,
            events,
            socket_pass,
            kernel_log,
            programs,
        } = loaded;
        let shared = Self {
            flow: flow.map(Mutex::new),
            socket_pass: socket_pass.map(Mutex::new),
            events: events.map(Mutex::new),
            recent_ends: Mutex::default(),
            programs,
            hosts: Mutex::default(),
            signals: Mutex::default(),
            signalled: Condvar::new(),
        };
        (Arc::new(shared), kernel_log)
    }

    pub(super) fn namespaces(&self) -> MutexGuard<'_, Namespaces> {
        lock(&self.hosts)
    }

    pub(super) fn flow(&self) -> Option<MutexGuard<'_, Flow>> {
        self.flow.as_ref().map(lock)
    }

    pub(super) const fn has_flow(&self) -> bool {
        self.flow.is_some()
    }

    pub(super) const fn can_count(&self) -> bool {
        self.socket_pass.is_some()
    }

    /// The live counters of a namespace; zeros where there are none or they cannot be read.
    pub(super) fn counters(&self, inode: u32) -> NamespaceCounters {
        self.flow()
            .and_then(|flow| {
                flow.namespace(inode)
                    .inspect_err(|error| warn!(%error, "cannot read live counters"))
                    .ok()
            })
            .unwrap_or_default()
    }

    /// Transitions that the kernel side did not see; see [`Flow::missed`].
    pub(super) fn missed_transitions(&self) -> u64 {
        self.flow()
            .and_then(|flow| {
                flow.missed()
                    .inspect_err(|error| warn!(%error, "cannot read what the program missed"))
                    .ok()
            })
            .unwrap_or_default()
    }

    /// Counts one namespace and corrects its model, or confirms it where nothing can have
    /// changed.
    pub(super) fn count(&self, visitor: &Visitor, namespace: &Namespace, walk: Walk) {
        let Some(socket_pass) = &self.socket_pass else {
            return;
        };
        let visited = visitor.visit(namespace, || {
            let mark = proc_mark(Path::new("/proc/thread-self"));
            self.count_here(socket_pass, namespace.inode, walk)
                .map(|counted| (counted, mark))
        });
        let failure = match visited {
            Ok(Ok((counted, mark))) => return self.learn_count(namespace.inode, counted, mark),
            // The next search decides whether the namespace is gone or only this way to it.
            Err(VisitError::Gone) => return self.ask_for_discovery(),
            Err(error) => (matches!(error, VisitError::Denied(_)), error.to_string()),
            Ok(Err(error)) => (false, error.to_string()),
        };
        self.note_failure(namespace, failure);
    }

    /// Counts the namespace that the calling thread is in.
    fn count_here(
        &self,
        socket_pass: &Mutex<SocketPass>,
        inode: u32,
        walk: Walk,
    ) -> Result<Counted, PassError> {
        let begun = Instant::now();
        // What could tell of a change is read before what it would change.
        let missed = self.missed_transitions();
        let stat = SockStat::read()?;
        let told = KernelTold {
            minisockets: stat.minisockets,
            segments_in: stat.segments_in,
        };
        let counters = self.counters(inode);
        let still_holds = self
            .namespaces()
            .watched
            .get(&inode)
            .is_some_and(|watched| {
                let model = watched.model.as_ref();
                model.is_some_and(|model| model.still_holds(&counters, told, missed))
            });
        if still_holds {
            return Ok(Counted::Confirmed(Instant::now()));
        }
        // The walk goes through the table of all namespaces, however few sockets this one has;
        // where the kernel says it has none at all, there is nothing to find.
        let mut took = begun.elapsed();
        let mut before = counters;
        let mut counts = SocketCounts::default();
        if !stat.is_empty() {
            let mut socket_pass = match walk {
                Walk::Waits => lock(socket_pass),
                Walk::IfFree => match socket_pass.try_lock() {
                    Ok(socket_pass) => socket_pass,
                    Err(_) => return Ok(Counted::Not),
                },
            };
            let walk_begun = Instant::now();
            before = self.counters(inode);
            counts = socket_pass.count()?;
            took += walk_begun.elapsed();
        }
        Ok(Counted::Anew(Box::new(Pass {
            counts,
            before,
            after: self.counters(inode),
            at: Instant::now(),
            took,
            missed,
            told,
        })))
    }

    fn learn_count(&self, inode: u32, counted: Counted, mark: Option<u64>) {
        let mut namespaces = self.namespaces();
        let Some(watched) = namespaces.watched.get_mut(&inode) else {
            return;
        };
        watched.mark = mark;
        watched.failure = None;
        match (counted, &mut watched.model) {
            (Counted::Not, _) | (Counted::Confirmed(_), None) => {}
            (Counted::Confirmed(at), Some(model)) => model.confirm(at),
            (Counted::Anew(pass), Some(model)) => model.correct(&pass),
            (Counted::Anew(pass), model @ None) => *model = Some(NamespaceModel::new(&pass)),
        }
    }

    fn note_failure(&self, namespace: &Namespace, (denied, error): (bool, String)) {
        let mut namespaces = self.namespaces();
        let Some(watched) = namespaces.watched.get_mut(&namespace.inode) else {
            return;
        };
        // Said once, not at every attempt.
        if watched.failure.is_none() {
            let route = namespace.routes.first().map(|route| route.display());
            warn!(
                namespace = namespace.inode,
                route = route.map(tracing::field::display),
                error,
                "cannot count a network namespace, it is in no gauge"
            );
        }
        watched.model = None;
        watched.failure = Some(Failure {
            denied,
            at: Instant::now(),
        });
    }

    /// Finds out how far the watch has come. `search_is_complete`: everything has been looked at
    /// once.
    pub(super) fn note_progress(&self, search_is_complete: bool) -> Progress {
        let (mut waiting, mut counted) = (0, 0);
        for watched in self.namespaces().watched.values() {
            match (&watched.model, watched.failure) {
                (Some(_), _) => counted += 1,
                (None, None) => waiting += 1,
                (None, Some(_)) => {}
            }
        }
        let is_whole = waiting == 0 && (counted > 0 || !self.can_count());
        let reached = match (is_whole, search_is_complete) {
            (false, _) => Progress::Starting,
            (true, false) => Progress::Counted,
            (true, true) => Progress::Ready,
        };
        let mut signals = lock(&self.signals);
        // Never back: a namespace that comes later is missing for a moment only.
        signals.progress = signals.progress.max(reached);
        self.signalled.notify_all();
        signals.progress
    }

    /// Asks the counting thread to look for namespaces now.
    pub(super) fn ask_for_discovery(&self) {
        lock(&self.signals).discover = true;
        self.signalled.notify_all();
    }

    pub(super) fn stop(&self) {
        lock(&self.signals).stop = true;
        self.signalled.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        lock(&self.signals).stop
    }

    /// Sleeps until something is asked of the counting thread.
    pub(super) fn wait(&self, timeout: Duration) -> Woken {
        let signals = lock(&self.signals);
        let (mut signals, _) = self
            .signalled
            .wait_timeout_while(signals, timeout, |signals| {
                !signals.stop && !signals.discover
            })
            .unwrap_or_else(PoisonError::into_inner);
        if signals.stop {
            Woken::Stop
        } else if std::mem::take(&mut signals.discover) {
            Woken::Discover
        } else {
            Woken::TimeOut
        }
    }

    pub(super) fn progress(&self) -> Progress {
        lock(&self.signals).progress
    }

    pub(super) fn wait_until_ready(&self, timeout: Duration) -> bool {
        let signals = lock(&self.signals);
        let (signals, _) = self
            .signalled
            .wait_timeout_while(signals, timeout, |signals| {
                signals.progress < Progress::Ready && !signals.stop
            })
            .unwrap_or_else(PoisonError::into_inner);
        signals.progress == Progress::Ready
    }

    pub(super) fn recent_ends(&self) -> RecentEnds {
        lock(&self.recent_ends).clone()
    }
}

/// A panic while a lock was held has been reported by then; the value is still a value.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
