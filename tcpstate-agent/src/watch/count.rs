//! Counting one namespace: enter it, find out whether its last snapshot still holds, and if not,
//! walk.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, TryLockError},
    time::Instant,
};

use tcpstate_common::{PORT_WORDS, PortSet, SocketCounts};
use tracing::warn;

use super::{
    kernel::Netstat,
    learn::remove_live_counters,
    shared::{Failure, Shared, Watched, lock},
};
use crate::{
    bpf::{PassError, SocketPass},
    model::{
        NamespaceModel, Pass, Signs, close_wait::Survey, outgoing::NamespaceOutgoing,
        unanswered::UnansweredSurvey,
    },
    netns::{Namespace, PortRules, SockStat, Tables, VisitError, Visitor, proc_mark},
};

/// Where it is not known which ports `connect()` may choose.
const NO_PORTS: PortSet = [0; PORT_WORDS];

/// What to do where another thread is walking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Wait for it to end.
    Waits,
    /// Do without.
    IfFree,
    /// Do without in any case: only find out whether the last snapshot still holds, which takes
    /// microseconds.
    Never,
}

/// What to find out besides how many sockets there are.
pub(super) enum Look<'a> {
    /// Which are in CLOSE_WAIT.
    CloseWait(&'a mut Survey),
    /// Which have peers that do not answer.
    Unanswered(&'a mut UnansweredSurvey),
}

/// What came of counting.
enum Counted {
    /// A new snapshot.
    Anew(Box<Pass>, NamespaceOutgoing),
    /// The last one still holds.
    Confirmed(Instant),
    /// Nothing: nothing here can count.
    Not,
    /// Nothing: another thread is walking.
    NotFree,
}

impl Walk {
    /// The means to walk; `None` where another thread has them and is not to be waited for.
    pub(super) fn begin(
        self,
        socket_pass: &Mutex<SocketPass>,
    ) -> Option<MutexGuard<'_, SocketPass>> {
        match self {
            Self::Waits => Some(lock(socket_pass)),
            Self::IfFree => match socket_pass.try_lock() {
                Ok(socket_pass) => Some(socket_pass),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            },
            Self::Never => None,
        }
    }
}

impl Shared {
    /// Counts one namespace and corrects its model, or confirms it where nothing can have
    /// changed. What a `survey` wants to know can change without any sign, so for it there is
    /// always a walk. Reads the kernel's own counters on the way, also where nothing can count.
    /// Returns false where another thread was walking and was not to be waited for.
    pub(super) fn count(
        &self,
        visitor: &Visitor,
        namespace: &Namespace,
        walk: Walk,
        netstat: Netstat,
        survey: Option<Look<'_>>,
    ) -> bool {
        let begun = Instant::now();
        let visited = visitor.visit(namespace, || {
            let mark = proc_mark(Path::new("/proc/thread-self"));
            self.count_here(namespace.inode, begun, walk, netstat, survey)
                .map(|counted| (counted, mark))
        });
        let failure = match visited {
            Ok(Ok((counted, mark))) => {
                let is_free = !matches!(counted, Counted::NotFree);
                self.learn_count(namespace.inode, counted, mark);
                return is_free;
            }
            Err(VisitError::Gone) => {
                self.note_gone(namespace.inode);
                return true;
            }
            Err(error) => (matches!(error, VisitError::Denied(_)), error.to_string()),
            Ok(Err(error)) => (false, error.to_string()),
        };
        self.note_failure(namespace, failure);
        true
    }

    /// Counts the namespace that the calling thread is in.
    fn count_here(
        &self,
        inode: u32,
        visit_begun: Instant,
        walk: Walk,
        netstat: Netstat,
        survey: Option<Look<'_>>,
    ) -> Result<Counted, PassError> {
        let begun = Instant::now();
        // What could tell of a change is read before what it would change.
        let mut missed = self.missed_transitions();
        let snmp = Tables::snmp()?;
        let stat = SockStat::read(&snmp)?;
        let counters = self.counters(inode);
        let mut took = begun.elapsed();
        let signs = Signs {
            live: counters,
            missed,
            segments_in: stat.segments_in,
        };
        self.read_kernel_counters(inode, visit_begun, &snmp, &signs, netstat);
        let Some(socket_pass) = &self.socket_pass else {
            return Ok(Counted::Not);
        };
        let still_holds = self
            .namespaces()
            .watched
            .get(&inode)
            .is_some_and(|watched| {
                let model = watched.model.as_ref();
                model.is_some_and(|model| model.still_holds(&counters, stat, missed))
            });
        if still_holds && survey.is_none() {
            return Ok(Counted::Confirmed(Instant::now()));
        }
        // The walk goes through the table of all namespaces, however few sockets this one has;
        // where the kernel says it has none at all, there is nothing to find.
        let mut before = counters;
        let mut counts = SocketCounts::default();
        let mut outgoing = NamespaceOutgoing::default();
        if stat.is_empty() {
            // What was found before is gone.
            self.learn_services(inode, &counts);
        } else {
            let Some(mut socket_pass) = walk.begin(socket_pass) else {
                return Ok(Counted::NotFree);
            };
            let walk_begun = Instant::now();
            let rules = PortRules::read();
            socket_pass.set_port_range(rules.choosable.as_deref().unwrap_or(&NO_PORTS))?;
            // Another walk may have been waited for, and been learnt from.
            missed = self.missed_transitions();
            before = self.counters(inode);
            counts = match survey {
                None => socket_pass.count()?,
                Some(Look::CloseWait(survey)) => describe(&mut socket_pass, inode, survey)?,
                Some(Look::Unanswered(survey)) => {
                    let counts = socket_pass.unanswered(|socket| survey.add(&socket));
                    counts.inspect_err(|_| survey.forget(inode))?
                }
            };
            outgoing = NamespaceOutgoing::new(&counts, socket_pass.outgoing(&counts)?, &rules);
            self.learn_services(inode, &counts);
            took += walk_begun.elapsed();
        }
        let pass = Pass {
            counts,
            before,
            after: self.counters(inode),
            at: Instant::now(),
            took,
            missed,
            stat,
        };
        Ok(Counted::Anew(Box::new(pass), outgoing))
    }

    fn learn_count(&self, inode: u32, counted: Counted, mark: Option<u64>) {
        let mut namespaces = self.namespaces();
        let Some(watched) = namespaces.watched.get_mut(&inode) else {
            drop(namespaces);
            // Gone while it was counted.
            self.forget_services(inode);
            return;
        };
        watched.mark = mark;
        watched.failure = None;
        match (counted, &mut watched.model) {
            (Counted::Not | Counted::NotFree, _) | (Counted::Confirmed(_), None) => {}
            (Counted::Confirmed(at), Some(model)) => model.confirm(at),
            (Counted::Anew(pass, outgoing), model) => {
                watched.outgoing = outgoing;
                // A new one may hold for longer than those before.
                watched.glanced = (None, 0);
                match model {
                    Some(model) => model.correct(&pass),
                    None => *model = Some(NamespaceModel::new(&pass)),
                }
            }
        }
    }

    /// The next search decides whether the namespace is gone or only this way to it. One that was
    /// never counted is not waited for.
    fn note_gone(&self, inode: u32) {
        let mut namespaces = self.namespaces();
        let is_new = |watched: &Watched| watched.model.is_none();
        if let Some(watched) = namespaces.watched.get_mut(&inode) {
            watched.is_gone = true;
        }
        if namespaces.watched.get(&inode).is_some_and(is_new) {
            namespaces.watched.remove(&inode);
            namespaces.kernel.totals.note_gone(inode);
            if let Some(mut flow) = self.flow() {
                remove_live_counters(&mut flow, inode);
            }
        }
        drop(namespaces);
        self.ask_for_discovery();
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
        watched.failure = Some(Failure::after(watched.failure, denied, Instant::now()));
        drop(namespaces);
        self.forget_services(namespace.inode);
    }
}

fn describe(
    socket_pass: &mut SocketPass,
    namespace: u32,
    survey: &mut Survey,
) -> Result<SocketCounts, PassError> {
    survey.begin(namespace);
    let counts = socket_pass.describe(|socket| survey.add(&socket));
    if counts.is_err() {
        survey.forget(namespace);
    }
    counts
}
