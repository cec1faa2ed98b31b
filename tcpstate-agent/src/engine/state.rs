//! The engine: the one thread that owns what the agent knows.
//!
//! It does what comes as messages, in turn: requests are answered from what it knows, results of the
//! reader are learned. In between it has the reader look again, within the budget.

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
    Connections, Message, OwnedListener, Question, WatchSettings,
    budget::Budget,
    close_wait::{CloseWait, CloseWaits},
    listeners::Listeners,
    look::{Looked, Wants, WantsOwners},
    namespaces::Namespaces,
    outgoing::Going,
    reader::{Fresh, Order, cpu_time},
    segments::Interfaces,
};
use crate::{
    collect::{
        closes::RecentEnds,
        listeners::{ListeningSocket, Served},
        sockets::Pass,
    },
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
const GIVE_BACK_EVERY: Duration = Duration::from_mins(1);
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
    pub(super) last: Option<LastLook>,
    pub(super) sums: FaultSums,
    budget: Budget,
    cpu_percent: f64,
    running: Option<Running>,
    /// Who waits for a look that finds out this.
    asking: Vec<(Wants, Question)>,
    is_ready: Arc<AtomicBool>,
    waiting_for_ready: Vec<Sender<()>>,
    owners_cost: Duration,
    gave_back_at: Instant,
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
            last: None,
            sums: FaultSums::default(),
            budget: Budget::new(settings.cpu_percent, Instant::now()),
            cpu_percent: settings.cpu_percent,
            running: None,
            asking: Vec::new(),
            is_ready,
            waiting_for_ready: Vec::new(),
            owners_cost: Duration::ZERO,
            gave_back_at: Instant::now(),
            failed_at: None,
            has_told_mismatch: false,
        }
    }

    /// Does what comes, until it is told to stop.
    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        // Before the first look, so that it has counters to go by.
        if let Some(fresh) = self.fresh() {
            self.listeners.note(&fresh.listeners);
        }
        if self.kernel.orders.is_none() {
            // Where nothing can be counted, there is nothing to wait for.
            self.note_ready();
        }
        loop {
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
    fn answer_scrapes(&mut self, first: Sender<Arc<super::Reading>>, inbox: &Receiver<Message>) {
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
            Question::Connections(_) => Wants {
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
            None => match self.due(now) {
                Ok(wants) => wants,
                Err(nap) => return nap,
            },
        };
        // One that is new gets counters to go by before it is counted.
        self.fresh();
        let before = self.before();
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
        let is_quiet = last.half_open == 0 && !self.has_changed();
        let due = if is_quiet { QUIET_DUE } else { BUSY_DUE };
        if age < due {
            return Err(due.saturating_sub(age));
        }
        let owners_age = last.owners_at.map(|at| now.saturating_duration_since(at));
        let every = self.budget.earned_in(self.owners_cost) * LISTENER_OWNERS_PARTS;
        let listeners = self.namespaces.listeners();
        let owners = if !self.kernel.tells_owners {
            WantsOwners::No
        } else if self.listeners.owners_are_due(listeners, every, now) {
            WantsOwners::Always
        } else if owners_age.is_none_or(|age| age >= OWNERS_DUE) {
            WantsOwners::OfCloseWait
        } else {
            WantsOwners::No
        };
        Ok(Wants {
            owners,
            ..Wants::default()
        })
    }

    /// Whether a transition was counted since the last look.
    fn has_changed(&self) -> bool {
        self.namespaces.all().any(|watched| {
            watched
                .model
                .as_ref()
                .is_none_or(|model| model.has_changed(&self.live(watched.id.inode)))
        })
    }

    /// The live counters of a namespace; zeros where there are none or they cannot be read.
    pub(super) fn live(&self, inode: u32) -> NamespaceCounters {
        let Some(flow) = &self.kernel.flow else {
            return NamespaceCounters::default();
        };
        flow.namespace(inode)
            .inspect_err(|error| warn!(%error, "cannot read live counters"))
            .unwrap_or_default()
    }

    /// Transitions that the kernel side did not see; see [`Flow::missed`].
    pub(super) fn missed(&self) -> u64 {
        let Some(flow) = &self.kernel.flow else {
            return 0;
        };
        flow.missed()
            .inspect_err(|error| warn!(%error, "cannot read what the program missed"))
            .unwrap_or_default()
    }

    /// What could tell of a change is read before what it would change.
    pub(super) fn before(&self) -> Before {
        let missed = self.missed();
        let live = self
            .namespaces
            .all()
            .map(|watched| (watched.id.inode, self.live(watched.id.inode)));
        Before {
            live: live.collect(),
            missed,
        }
    }

    fn learn_background(&mut self, looked: Result<Box<Looked>, ReadError>) {
        let Some(Running { wants, before }) = self.running.take() else {
            return;
        };
        match looked {
            Ok(mut looked) => {
                self.charge(looked.cpu);
                let unanswered = looked.found.unanswered.take();
                match self.learn(*looked, &before) {
                    Ok(()) => self.answer_questions(wants, unanswered),
                    Err(error) => self.cannot_tell(&error, wants),
                }
            }
            Err(error) => self.cannot_tell(&error, wants),
        }
    }

    fn cannot_tell(&mut self, error: &ReadError, wants: Wants) {
        self.report_failure(error);
        // Dropping the questions says so to whoever asked.
        self.asking.retain(|(asked, _)| !wants.cover(*asked));
    }

    /// Said once, until it has gone well again.
    pub(super) fn report_failure(&mut self, error: &ReadError) {
        if self.failed_at.replace(Instant::now()).is_none() {
            warn!(%error, "cannot read the kernel's tables of sockets");
        }
    }

    /// Learns from a look. Before it the counters were `before`. What cannot be believed is not
    /// learned.
    pub(super) fn learn(&mut self, looked: Looked, before: &Before) -> Result<(), ReadError> {
        let Looked {
            found,
            listeners,
            owners,
            began,
            took,
            owners_took,
            cpu,
            owners_cpu,
            faults,
            expected_after,
        } = looked;
        self.sums.looks.add(faults);
        if faults.given_up > 0 {
            // Sockets are missing, and nobody knows of which namespaces.
            return Err(ReadError::Restless(faults.given_up));
        }
        self.failed_at = None;
        self.namespaces.note_listeners(listeners);
        let expected: FxHashMap<u32, (u64, u64)> = expected_after
            .into_iter()
            .map(|(inode, full, minisockets)| (inode, (full, minisockets)))
            .collect();
        let at = Instant::now();
        let mut half_open = 0;
        for namespace in found.namespaces {
            let inode = namespace.inode;
            let Some(&live_before) = before.live.get(&inode) else {
                // New: the next look has counters to go by.
                continue;
            };
            let pass = Pass {
                counts: namespace.counts,
                before: live_before,
                after: self.live(inode),
                at,
                missed: before.missed,
            };
            let agrees = pass.agrees_with(namespace.expected, expected.get(&inode).copied());
            if !agrees {
                self.sums.mismatches += 1;
                if !std::mem::replace(&mut self.has_told_mismatch, true) {
                    let (full, minisockets) = namespace.expected;
                    warn!(
                        namespace = inode,
                        found_full = pass.counts.full(),
                        kernel_full = full,
                        found_minisockets = pass.counts.minisockets(),
                        kernel_minisockets = minisockets,
                        "the sockets found in a namespace are not as many as the kernel counts; \
                         tcpstate_pass_mismatch_total goes on counting",
                    );
                }
            }
            if !self.namespaces.is_believed(inode, agrees) {
                continue;
            }
            half_open += pass.half_open();
            let served = Served {
                services: namespace
                    .services
                    .into_iter()
                    .map(|(address, counts)| (address, Arc::new(counts)))
                    .collect(),
                limits: Some(namespace.limits.into()),
            };
            self.namespaces
                .learn(inode, namespace.cookie, &pass, namespace.outgoing, served);
        }
        let mut owners_at = self.last.and_then(|last| last.owners_at);
        if let Some(owners) = owners {
            self.close_waits.learn(&found.close_wait, &owners, took);
            self.listeners
                .learn_owners(owners.listeners, &owners.processes, began);
            owners_at = Some(began);
            self.owners_cost = owners_cpu;
        } else if found.close_wait.total().sockets == 0 {
            self.close_waits.learn_none(took);
        }
        self.last = Some(LastLook {
            began,
            took: took.saturating_sub(owners_took),
            cpu: cpu.saturating_sub(owners_cpu),
            owners_at,
            unknown: found.unknown,
            half_open,
        });
        self.note_ready();
        Ok(())
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

    /// Answers those who asked for no more than a look has found out.
    fn answer_questions(
        &mut self,
        found_out: Wants,
        unanswered: Option<crate::collect::unanswered::UnansweredSurvey>,
    ) {
        let asking = std::mem::take(&mut self.asking);
        let (answered, left): (Vec<_>, Vec<_>) = asking
            .into_iter()
            .partition(|(wants, _)| found_out.cover(*wants));
        self.asking = left;
        let mut connections: Option<Connections> = None;
        let mut unanswered = unanswered;
        for (_, question) in answered {
            match question {
                Question::CloseWait(answer) => {
                    if let Some(found) = self.close_waits.last() {
                        let _ = answer.send(Arc::clone(found));
                    }
                }
                Question::Listeners(answer) => {
                    let _ = answer.send(self.owned_listeners());
                }
                Question::Connections(answer) => {
                    if let Some(survey) = unanswered.take() {
                        connections = Some(Connections {
                            outgoing: self.namespaces.outgoing(),
                            unanswered: survey.groups(),
                        });
                    }
                    if let Some(connections) = &connections {
                        let _ = answer.send(connections.clone());
                    }
                }
                Question::Read(_) | Question::RecentEnds(_) | Question::Ready(_) => {}
            }
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
                self.namespaces.note(&fresh, flow);
                Some(fresh)
            }
            Err(error) => {
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
                WantsOwners::OfCloseWait
            } else {
                WantsOwners::No
            },
            ..Wants::default()
        };
        let before = self.before();
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

    /// Whether a socket is in CLOSE_WAIT by what is known.
    pub(super) fn last_close_wait(&self) -> Option<&Arc<CloseWait>> {
        self.close_waits.last()
    }

    /// Whether the host has been counted once.
    pub(super) const fn is_counted(&self) -> bool {
        self.last.is_some()
    }
}
