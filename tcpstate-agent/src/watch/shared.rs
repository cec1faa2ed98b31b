//! What the threads of the watch share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tcpstate_common::NamespaceCounters;
use tracing::warn;

use super::{
    WatchSettings, close_wait::Naming, kernel::Kernel, listeners::Listening, outgoing::Going,
    segments::Interfaces,
};
use crate::{
    bpf::{EventRing, Flow, KernelLog, Loaded, ProgramStatus, ResetTable, SocketPass, SynAckLink},
    model::{NamespaceModel, Origin, outgoing::NamespaceOutgoing},
    netns::Namespace,
    recent_ends::RecentEnds,
    segments::Follower,
};

/// How long the events thread sleeps when nothing wakes it; a stop waits for it.
pub(super) const EVENT_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Shared {
    flow: Option<Mutex<Flow>>,
    pub(super) socket_pass: Option<Mutex<SocketPass>>,
    pub(super) tells_owners: bool,
    pub(super) listening: Option<Listening>,
    _synack_link: Option<SynAckLink>,
    pub(super) resets: Option<Mutex<ResetTable>>,
    pub(super) events: Option<Mutex<EventRing>>,
    pub(super) recent_ends: Mutex<RecentEnds>,
    pub(super) naming: Naming,
    pub(super) going: Going,
    pub(super) programs: Vec<ProgramStatus>,
    pub(super) segments: Option<Interfaces>,
    namespaces: Mutex<Namespaces>,
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
    /// What the kernel counted itself in all of them.
    pub(super) kernel: Kernel,
}

/// One namespace that was found.
pub(super) struct Watched {
    pub(super) namespace: Namespace,
    /// Whether it is older than the agent.
    pub(super) origin: Origin,
    pub(super) model: Option<NamespaceModel>,
    /// Where its connections go, as the last snapshot has found them.
    pub(super) outgoing: NamespaceOutgoing,
    /// When it was last looked at whether the last snapshot still holds, without counting, and how
    /// often in a row it did not.
    pub(super) glanced: (Option<Instant>, u32),
    /// No way led there any more: the next search decides.
    pub(super) is_gone: bool,
    /// Why it is not counted.
    pub(super) failure: Option<Failure>,
    /// How often in a row it was not found again.
    pub(super) missed: u8,
    /// There was no room for its live counters, and that has been said.
    pub(super) is_without_counters: bool,
    /// What [`proc_mark`](crate::netns::proc_mark) gives in it, once it has been entered.
    pub(super) mark: Option<u64>,
}

/// Why a namespace could not be counted, when, and how often in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) denied: bool,
    at: Instant,
    times: u32,
}

impl Failure {
    /// For how long a namespace is left alone at most.
    const LONGEST_PAUSE: Duration = Duration::from_secs(30);

    /// One more, after `before`.
    pub(super) fn after(before: Option<Self>, denied: bool, at: Instant) -> Self {
        Self {
            denied,
            at,
            times: before.map_or(0, |before| before.times.saturating_add(1)),
        }
    }

    /// Whether the namespace may be tried again. What stood in the way may be gone in a moment, so
    /// at first a second later, and each time after twice as long.
    pub(super) fn is_over(self, now: Instant) -> bool {
        let seconds = 1_u64.checked_shl(self.times).map(Duration::from_secs);
        let pause = seconds.map_or(Self::LONGEST_PAUSE, |pause| pause.min(Self::LONGEST_PAUSE));
        now.saturating_duration_since(self.at) >= pause
    }

    /// Takes note that no way leads there that did: it may be another one with the same number.
    pub(super) const fn begin_anew(&mut self) {
        self.times = 0;
    }
}

impl Watched {
    pub(super) fn new(namespace: Namespace, origin: Origin) -> Self {
        Self {
            namespace,
            origin,
            model: None,
            outgoing: NamespaceOutgoing::default(),
            glanced: (None, 0),
            is_gone: false,
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
    pub(super) fn new(
        loaded: Loaded,
        segments: Option<Follower>,
        settings: WatchSettings,
    ) -> (Arc<Self>, Option<KernelLog>) {
        let Loaded {
            flow,
            events,
            socket_pass,
            listeners,
            synack_link,
            resets,
            kernel_log,
            programs,
        } = loaded;
        let shared = Self {
            flow: flow.map(Mutex::new),
            tells_owners: socket_pass.as_ref().is_some_and(SocketPass::tells_owners),
            socket_pass: socket_pass.map(Mutex::new),
            listening: listeners.map(|tables| Listening::new(tables, settings.listeners_top)),
            _synack_link: synack_link,
            resets: resets.map(Mutex::new),
            events: events.map(Mutex::new),
            recent_ends: Mutex::default(),
            naming: Naming::new(settings.close_wait_top),
            going: Going::new(settings.destinations_top),
            programs,
            segments: segments.map(Interfaces::new),
            namespaces: Mutex::default(),
            signals: Mutex::default(),
            signalled: Condvar::new(),
        };
        (Arc::new(shared), kernel_log)
    }

    pub(super) fn namespaces(&self) -> MutexGuard<'_, Namespaces> {
        lock(&self.namespaces)
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
        // Where nothing can be counted, there is nothing to wait for.
        let is_whole = !self.can_count() || (waiting == 0 && counted > 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_failed_is_tried_a_second_later_and_then_ever_less_often() {
        let at = Instant::now();
        let mut failure = None;
        for pause in [1, 2, 4, 8, 16, 30, 30].into_iter().chain([30; 70]) {
            let pause = Duration::from_secs(pause);
            let again = Failure::after(failure, false, at);
            let early = pause.saturating_sub(Duration::from_millis(1));
            assert!(!again.is_over(at + early), "{again:?}");
            assert!(again.is_over(at + pause), "{again:?}");
            failure = Some(again);
        }
        let mut failure = failure.unwrap();
        failure.begin_anew();
        assert!(failure.is_over(at + Duration::from_secs(1)));
    }
}
