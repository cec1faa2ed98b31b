//! Counting one namespace: enter it, find out whether its last snapshot still holds, and if not,
//! walk.

use std::{path::Path, sync::Mutex, time::Instant};

use tcpstate_common::SocketCounts;
use tracing::warn;

use super::{
    learn::remove_live_counters,
    shared::{Failure, Shared, Watched, lock},
};
use crate::{
    bpf::{PassError, SocketPass},
    model::{NamespaceModel, Pass, close_wait::Survey},
    netns::{Namespace, SockStat, VisitError, Visitor, proc_mark},
};

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

impl Shared {
    /// Counts one namespace and corrects its model, or confirms it where nothing can have
    /// changed. What a `survey` wants to know can change without any sign, so for it there is
    /// always a walk.
    pub(super) fn count(
        &self,
        visitor: &Visitor,
        namespace: &Namespace,
        walk: Walk,
        survey: Option<&mut Survey>,
    ) {
        let Some(socket_pass) = &self.socket_pass else {
            return;
        };
        let visited = visitor.visit(namespace, || {
            let mark = proc_mark(Path::new("/proc/thread-self"));
            self.count_here(socket_pass, namespace.inode, walk, survey)
                .map(|counted| (counted, mark))
        });
        let failure = match visited {
            Ok(Ok((counted, mark))) => return self.learn_count(namespace.inode, counted, mark),
            Err(VisitError::Gone) => return self.note_gone(namespace.inode),
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
        survey: Option<&mut Survey>,
    ) -> Result<Counted, PassError> {
        let begun = Instant::now();
        // What could tell of a change is read before what it would change.
        let missed = self.missed_transitions();
        let stat = SockStat::read()?;
        let counters = self.counters(inode);
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
            counts = match survey {
                None => socket_pass.count()?,
                Some(survey) => describe(&mut socket_pass, inode, survey)?,
            };
            took += walk_begun.elapsed();
        }
        Ok(Counted::Anew(Box::new(Pass {
            counts,
            before,
            after: self.counters(inode),
            at: Instant::now(),
            took,
            missed,
            stat,
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

    /// The next search decides whether the namespace is gone or only this way to it. One that was
    /// never counted is not waited for.
    fn note_gone(&self, inode: u32) {
        let mut namespaces = self.namespaces();
        let is_new = |watched: &Watched| watched.model.is_none();
        if namespaces.watched.get(&inode).is_some_and(is_new) {
            namespaces.watched.remove(&inode);
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
        watched.failure = Some(Failure {
            denied,
            at: Instant::now(),
        });
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
