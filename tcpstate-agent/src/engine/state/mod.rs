//! The engine: the one thread that owns what the agent knows.
//!
//! It does what comes as messages, in turn: requests are answered from what it knows, results of the
//! reader are learned. In between it has the reader look again, within the budget.

mod learning;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use tcpstate_common::NamespaceCounters;
use tracing::warn;

use super::{
    Message, OwnedListener, Question, Reading, WatchSettings,
    budget::Budget,
    close_wait::CloseWaits,
    listeners::Listeners,
    look::{Wants, WantsOwners},
    namespaces::{Namespaces, Watched},
    outgoing::Going,
    pulse::Pulse,
    reader::{Fresh, Order, cpu_time},
    segments::Interfaces,
};
use crate::{
    collect::{Admission, closes::RecentEnds, listeners::ListeningSocket, owners::Naming},
    host::memory,
    kernel::{
        EventRing, Faults, Flow, KernelLog, ProgramStatus, ReadError, ResetTable, SynAckTable,
    },
};

/// Where a look takes no more CPU time, a scrape looks afresh.
pub(super) const FRESH_LIMIT: Duration = Duration::from_millis(5);
/// Unless the last look is no older.
pub(super) const FRESH_FOR: Duration = Duration::from_millis(100);
/// How old a snapshot is at least when the next one is due.
const BUSY_DUE: Duration = Duration::from_secs(1);
/// The same where no transition tells of a change: it is looked at all the same, because a
/// half-open connection has none.
const QUIET_DUE: Duration = Duration::from_secs(3);
/// How old it is at least what is known of owners when they are looked for again.
const OWNERS_DUE: Duration = Duration::from_secs(5);
/// The walks for the owners of listening sockets that are made now and then, though none is new,
/// cost no more than one part in so many of the budget.
const LISTENER_OWNERS_PARTS: u32 = 8;
/// How often memory is given back that a peak has left.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(30);
/// How long to sleep at most.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// What the engine has of the kernel.
pub(super) struct KernelSide {
    pub(super) flow: Option<Flow>,
    pub(super) events: Option<EventRing>,
    pub(super) kernel_log: Option<KernelLog>,
    pub(super) resets: Option<ResetTable>,
    pub(super) synacks: Option<SynAckTable>,
    pub(super) programs: Vec<ProgramStatus>,
    pub(super) segments: Option<Arc<Interfaces>>,
    /// The reader, where the tables can be read.
    pub(super) orders: Option<Sender<Order>>,
    /// Owners can be told.
    pub(super) tells_owners: bool,
}

/// Everything that is known.
pub(super) struct Engine {
    pub(super) kernel: KernelSide,
    pub(super) namespaces: Namespaces,
    pub(super) listeners: Listeners,
    pub(super) close_waits: CloseWaits,
    pub(super) going: Going,
    pub(super) recent_ends: RecentEnds,
    /// Which series may be new.
    pub(super) admission: Admission,
    /// It was said that some may not.
    has_told_refused: bool,
    naming: Naming,
    pub(super) last: Option<LastLook>,
    pub(super) sums: FaultSums,
    budget: Budget,
    cpu_percent: f64,
    only_when_asked: bool,
    running: Option<Running>,
    /// Who waits for a look that finds out this.
    asking: Vec<(Wants, Question)>,
    is_ready: Arc<AtomicBool>,
    waiting_for_ready: Vec<Sender<()>>,
    /// Transitions that the kernel side did not see, as it last said.
    last_missed: u64,
    owners_cost: Duration,
    gave_back_at: Instant,
    /// Looks that have failed since one went well.
    failed_looks: u32,
    /// When a look last failed, if the one after it has not gone well.
    failed_at: Option<Instant>,
    /// It was said that the kernel's own numbers say something else.
    has_told_mismatch: bool,
}

/// What there is to say of the last look.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastLook {
    pub(super) began: Instant,
    /// How long it took to read the tables of sockets, and what CPU time.
    pub(super) took: Duration,
    cpu: Duration,
    /// When owners were last looked for, if ever.
    pub(super) owners_at: Option<Instant>,
    pub(super) unknown: u64,
    pub(super) half_open: u64,
    /// Sockets in CLOSE_WAIT.
    close_wait: u64,
}

/// What did not go well, over all looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSums {
    /// What the looks say themselves.
    pub looks: Faults,
    /// Namespaces of which the kernel's own numbers say something else.
    pub mismatches: u64,
}

/// A look that is under way.
struct Running {
    wants: Wants,
    before: Before,
}

/// What the counters were before a look.
pub(super) struct Before {
    live: FxHashMap<u32, NamespaceCounters>,
    missed: u64,
}

impl Engine {
    pub(super) fn new(
        kernel: KernelSide,
        settings: WatchSettings,
        is_ready: Arc<AtomicBool>,
    ) -> Self {
        Self {
            listeners: Listeners::new(settings.listeners_top, kernel.tells_owners),
            kernel,
            namespaces: Namespaces::default(),
            close_waits: CloseWaits::new(settings.close_wait_top),
            going: Going::new(settings.destinations_top),
            recent_ends: RecentEnds::default(),
            admission: Admission::new(settings.series, Instant::now()).with_named(settings.named),
            has_told_refused: false,
            naming: Naming::new(settings.hidden),
            last: None,
            sums: FaultSums::default(),
            budget: Budget::new(settings.cpu_percent, Instant::now()),
            cpu_percent: settings.cpu_percent,
            only_when_asked: settings.only_when_asked,
            running: None,
            asking: Vec::new(),
            is_ready,
            waiting_for_ready: Vec::new(),
            last_missed: 0,
            owners_cost: Duration::ZERO,
            gave_back_at: Instant::now(),
            failed_looks: 0,
            failed_at: None,
            has_told_mismatch: false,
        }
    }

    /// Does what comes, until it is told to stop.
    pub(super) fn run(mut self, inbox: &Receiver<Message>, pulse: &Pulse) {
        // Before the first look, so that it has counters to go by.
        if let Some(fresh) = self.fresh() {
            self.listeners.note(&fresh.listeners);
        }
        if self.kernel.orders.is_none() {
            // Where nothing can be counted, there is nothing to wait for.
            self.note_ready();
        }
        loop {
            pulse.beat();
            let before = cpu_time();
            let nap = self.schedule(Instant::now());
            if self.gave_back_at.elapsed() >= GIVE_BACK_EVERY {
                self.give_back();
            }
            self.charge(cpu_time().saturating_sub(before));
            match inbox.recv_timeout(nap.min(LONGEST_NAP)) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Message::Ask(Question::Read(answer))) => self.answer_scrapes(answer, inbox),
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn give_back(&mut self) {
        memory::give_back();
        self.gave_back_at = Instant::now();
    }

    fn charge(&mut self, cost: Duration) {
        self.budget.spend(cost, Instant::now());
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Ask(question) => self.ask(question),
            Message::Looked(looked) => self.learn_background(looked),
            Message::Drain(done) => {
                self.drain();
                // Who no longer waits needs no answer.
                let _ = done.send(());
            }
            // Seen by the loop.
            Message::Stop => {}
        }
    }

    /// Whoever asked before the reading begins shares it.
    fn answer_scrapes(&mut self, first: Sender<Arc<Reading>>, inbox: &Receiver<Message>) {
        let mut waiting = vec![first];
        let mut others = Vec::new();
        for message in inbox.try_iter() {
            match message {
                Message::Ask(Question::Read(answer)) => waiting.push(answer),
                other => others.push(other),
            }
        }
        let reading = Arc::new(self.read());
        for answer in waiting {
            let _ = answer.send(Arc::clone(&reading));
        }
        for message in others {
            self.handle(message);
        }
    }

    fn ask(&mut self, question: Question) {
        let wants = match &question {
            Question::Read(answer) => {
                let _ = answer.send(Arc::new(self.read()));
                return;
            }
            Question::RecentEnds(answer) => {
                let _ = answer.send(self.recent_ends.clone());
                return;
            }
            Question::Ready(answer) => {
                if self.is_ready.load(Ordering::Relaxed) {
                    let _ = answer.send(());
                } else {
                    self.waiting_for_ready.push(answer.clone());
                }
                return;
            }
            Question::CloseWait(_) | Question::Listeners(_) => Wants {
                owners: WantsOwners::Always,
                ..Wants::default()
            },
            Question::Connections(_) | Question::Everything(_) => Wants {
                unanswered: true,
                owners: WantsOwners::OfEveryState,
            },
        };
        if self.kernel.orders.is_none() {
            // Dropping the question says that it cannot be told.
            return;
        }
        self.asking.push((wants, question));
    }

    /// Begins the look that is due, if one is. How long until there may be another.
    fn schedule(&mut self, now: Instant) -> Duration {
        if self.running.is_some() || self.kernel.orders.is_none() {
            return LONGEST_NAP;
        }
        let asked = self
            .asking
            .iter()
            .map(|(wants, _)| *wants)
            .reduce(Wants::and);
        let wants = match asked {
            Some(wants) => wants,
            None if self.only_when_asked => return LONGEST_NAP,
            None => match self.due(now) {
                Ok(wants) => wants,
                Err(nap) => return nap,
            },
        };
        // One that is new gets counters to go by before it is counted.
        if let Some(fresh) = self.fresh() {
            self.charge(fresh.cpu);
        }
        let Some(before) = self.before() else {
            return BUSY_DUE;
        };
        let sent = self
            .kernel
            .orders
            .as_ref()
            .is_some_and(|orders| orders.send(Order::Background(wants)).is_ok());
        if sent {
            self.running = Some(Running { wants, before });
        }
        LONGEST_NAP
    }

    /// What to look for now, or how long to wait.
    fn due(&mut self, now: Instant) -> Result<Wants, Duration> {
        if let Some(at) = self.failed_at {
            let age = now.saturating_duration_since(at);
            if age < BUSY_DUE {
                return Err(BUSY_DUE.saturating_sub(age));
            }
        }
        // A first look is never put off: without it there is nothing to show.
        let Some(last) = self.last else {
            return Ok(Wants {
                owners: WantsOwners::Always,
                ..Wants::default()
            });
        };
        let wait = self.budget.wait(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        let age = now.saturating_duration_since(last.began);
        // To find out whether anything moved costs something for each namespace.
        let due = if age < BUSY_DUE || last.half_open > 0 || self.has_changed() {
            BUSY_DUE
        } else {
            QUIET_DUE
        };
        let owners = self.owners_due(&last, now);
        // Scrapes keep what is counted fresh where that is cheap, and not always the owners.
        let is_for_owners = match owners {
            WantsOwners::No => false,
            WantsOwners::OfCloseWait => last.close_wait > 0,
            WantsOwners::Always | WantsOwners::OfEveryState => true,
        };
        if age < due && !is_for_owners {
            return Err(due.saturating_sub(age));
        }
        Ok(Wants {
            owners,
            ..Wants::default()
        })
    }

    /// Whether to look for owners now.
    fn owners_due(&mut self, last: &LastLook, now: Instant) -> WantsOwners {
        let owners_age = last.owners_at.map(|at| now.saturating_duration_since(at));
        let every = self.budget.earned_in(self.owners_cost) * LISTENER_OWNERS_PARTS;
        let listeners = self.namespaces.listeners();
        if !self.kernel.tells_owners {
            WantsOwners::No
        } else if self.listeners.owners_are_due(listeners, every, now) {
            WantsOwners::Always
        } else if owners_age.is_none_or(|age| age >= OWNERS_DUE) {
            WantsOwners::OfCloseWait
        } else {
            WantsOwners::No
        }
    }

    /// Whether a transition was counted since the last look.
    fn has_changed(&self) -> bool {
        self.namespaces.all().any(|watched| {
            let model = watched.model.as_ref();
            let live = self.live(watched);
            model
                .zip(live)
                .is_none_or(|(model, live)| model.has_changed(&live))
        })
    }

    /// The live counters of a namespace, zeros where it has none; `None` where they cannot be read.
    pub(super) fn live(&self, watched: &Watched) -> Option<NamespaceCounters> {
        let Some(flow) = &self.kernel.flow else {
            return Some(NamespaceCounters::default());
        };
        flow.namespace(watched.net)
            .inspect_err(|error| warn!(%error, "cannot read live counters"))
            .ok()
    }

    /// Transitions that the kernel side did not see; see [`Flow::missed`]. `None` where that cannot be
    /// read.
    pub(super) fn missed(&self) -> Option<u64> {
        let Some(flow) = &self.kernel.flow else {
            return Some(0);
        };
        flow.missed()
            .inspect_err(|error| warn!(%error, "cannot read what the program missed"))
            .ok()
    }

    /// Says once that there are more new series than may be.
    pub(super) fn tell_what_is_refused(&mut self) {
        if self.admission.has_refused() && !std::mem::replace(&mut self.has_told_refused, true) {
            warn!(
                "more new series than --series.burst and --series.per-hour let in: further ones are \
                 added to the series `other` (see tcpstate_series_folded_total)"
            );
        }
    }

    fn note_ready(&mut self) {
        if self.is_ready.swap(true, Ordering::Relaxed) {
            return;
        }
        // Of what the start took, most is not needed any more.
        self.give_back();
        // What the start costs is not taken from what comes after.
        self.budget = Budget::new(self.cpu_percent, Instant::now());
        for waiting in self.waiting_for_ready.drain(..) {
            let _ = waiting.send(());
        }
    }

    fn owned_listeners(&mut self) -> Vec<OwnedListener> {
        let Some(fresh) = self.fresh() else {
            return Vec::new();
        };
        let sockets: Vec<ListeningSocket> = fresh.listeners;
        self.listeners.owned(&sockets, self.namespaces.served())
    }

    /// What the kernel keeps as numbers of its own, now. `None` where it cannot be read.
    pub(super) fn fresh(&mut self) -> Option<Fresh> {
        let (answer, answered) = channel();
        self.kernel
            .orders
            .as_ref()?
            .send(Order::Fresh(answer))
            .ok()?;
        match answered.recv().ok()? {
            Ok(mut fresh) => {
                if let Some(synacks) = &mut self.kernel.synacks {
                    synacks.join(&mut fresh.listeners);
                }
                let flow = self.kernel.flow.as_mut();
                self.namespaces.note(&fresh, flow, self.last_missed);
                Some(fresh)
            }
            Err(error) => {
                if let ReadError::Restless(chains) = error {
                    self.sums.looks.given_up += chains;
                }
                self.report_failure(&error);
                None
            }
        }
    }

    /// Looks at everything now, where that takes milliseconds by experience.
    pub(super) fn look_if_cheap(&mut self, now: Instant) {
        let Some(last) = self.last else {
            return;
        };
        let age = now.saturating_duration_since(last.began);
        if last.cpu > FRESH_LIMIT || age < FRESH_FOR {
            return;
        }
        let is_cheap = last.cpu + self.owners_cost <= FRESH_LIMIT && last.owners_at.is_some();
        let wants = Wants {
            owners: if is_cheap && self.kernel.tells_owners {
                self.owners_due(&last, now).max(WantsOwners::OfCloseWait)
            } else {
                WantsOwners::No
            },
            ..Wants::default()
        };
        let Some(before) = self.before() else {
            return;
        };
        let (answer, answered) = channel();
        let Some(orders) = &self.kernel.orders else {
            return;
        };
        if orders.send(Order::Now(wants, answer)).is_err() {
            return;
        }
        // Where the reader has ended, that shows elsewhere.
        let Ok(looked) = answered.recv() else {
            return;
        };
        if let Err(error) = looked.and_then(|looked| self.learn(*looked, &before)) {
            self.report_failure(&error);
        }
    }

    /// Takes the records that are in the ring.
    pub(super) fn drain(&mut self) {
        if let Some(ring) = &mut self.kernel.events {
            let recent = &mut self.recent_ends;
            if let Some(error) = ring.drain(|end| recent.add(&end)) {
                warn!(%error, "a malformed record from the kernel side was dropped");
            }
        }
        if let Some(log) = &mut self.kernel.kernel_log {
            log.flush();
        }
    }

    /// Whether the host has been counted once.
    pub(super) const fn is_counted(&self) -> bool {
        self.last.is_some()
    }
}
