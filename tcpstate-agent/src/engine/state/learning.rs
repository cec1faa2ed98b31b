//! What the engine makes of a look.

use std::{sync::Arc, time::Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use tracing::warn;

use super::{
    super::{
        Connections, Question, Seen,
        look::{Looked, Wants},
    },
    Before, Engine, LastLook, Running,
};
use crate::{
    collect::{
        NamespaceFound, listeners::Served, outgoing::NamedPortHolders, sockets::Pass,
        unanswered::UnansweredSurvey,
    },
    kernel::ReadError,
};

/// How often a look fails before whoever asked is told that it cannot be told.
const LOOKS_FOR_AN_ANSWER: u32 = 5;

impl Engine {
    /// What could tell of a change is read before what it would change. `None` where it cannot be.
    /// How many transitions were missed is what it was where that cannot be read: without `/proc` there
    /// would be no look at all.
    pub(super) fn before(&mut self) -> Option<Before> {
        self.last_missed = self.missed().unwrap_or(self.last_missed);
        let missed = self.last_missed;
        let live = self
            .namespaces
            .all()
            .map(|watched| Some((watched.id.inode, self.live(watched)?)));
        Some(Before {
            live: live.collect::<Option<_>>()?,
            missed,
        })
    }

    pub(super) fn learn_background(&mut self, looked: Result<Box<Looked>, ReadError>) {
        let Some(Running { wants, before }) = self.running.take() else {
            return;
        };
        match looked {
            Ok(mut looked) => {
                self.charge(looked.cpu);
                let unanswered = looked.found.unanswered.take();
                let owners = looked.owners.as_mut();
                let port_holders = owners.map(|owners| std::mem::take(&mut owners.port_holders));
                match self.learn(*looked, &before) {
                    Ok(()) => {
                        self.answer_questions(wants, unanswered, port_holders.unwrap_or_default());
                    }
                    Err(error) => self.cannot_tell(&error, wants),
                }
            }
            Err(error) => self.cannot_tell(&error, wants),
        }
    }

    fn cannot_tell(&mut self, error: &ReadError, wants: Wants) {
        self.report_failure(error);
        // What keeps one look from its end may be over by the next one.
        self.failed_looks += 1;
        if self.failed_looks < LOOKS_FOR_AN_ANSWER {
            return;
        }
        // Dropping the questions says so to whoever asked.
        self.asking.retain(|(asked, _)| !wants.cover(*asked));
    }

    /// Said once, until it has gone well again.
    pub(super) fn report_failure(&mut self, error: &ReadError) {
        if self.failed_at.replace(Instant::now()).is_none() {
            warn!(%error, "cannot read the kernel's tables of sockets");
        }
    }

    /// Learns what was found in each namespace, and what the kernel said itself. Returns how many
    /// connections are half open in those that can be believed.
    fn learn_namespaces(
        &mut self,
        found: Vec<NamespaceFound>,
        before: &Before,
        expected_after: &FxHashMap<u32, (u64, u64)>,
        lacks_half_open: &FxHashSet<u32>,
    ) -> u64 {
        let at = Instant::now();
        let mut half_open = 0;
        for namespace in found {
            let inode = namespace.inode;
            let Some(&live_before) = before.live.get(&inode) else {
                // New: the next look has counters to go by.
                continue;
            };
            let Some(live_after) = self
                .namespaces
                .of(inode)
                .and_then(|watched| self.live(watched))
            else {
                continue;
            };
            let pass = Pass {
                counts: namespace.counts,
                before: live_before,
                after: live_after,
                at,
                missed: before.missed,
            };
            let agrees = pass.agrees_with(namespace.expected, expected_after.get(&inode).copied())
                && !lacks_half_open.contains(&inode);
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
                        found_half_open = pass.half_open(),
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
        half_open
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
            lacks_half_open,
        } = looked;
        self.sums.looks.add(faults);
        if faults.given_up > 0 {
            // Sockets are missing, and nobody knows of which namespaces.
            return Err(ReadError::Restless(faults.given_up));
        }
        self.failed_at = None;
        self.failed_looks = 0;
        self.namespaces.note_listeners(listeners);
        let half_open =
            self.learn_namespaces(found.namespaces, before, &expected_after, &lacks_half_open);
        let mut owners_at = self.last.and_then(|last| last.owners_at);
        if let Some(owners) = owners {
            self.close_waits.learn(
                &found.close_wait,
                &owners,
                owners_took,
                &mut self.naming,
                &mut self.admission,
            );
            self.listeners.learn_owners(
                owners.listeners,
                &owners.processes,
                &mut self.naming,
                began,
            );
            self.naming
                .keep_only(|id| owners.processes.contains_key(id));
            owners_at = Some(began);
            self.owners_cost = owners_cpu;
        } else if found.close_wait.total().sockets == 0 {
            self.close_waits.learn_none(owners_took);
        }
        self.last = Some(LastLook {
            began,
            took: took.saturating_sub(owners_took),
            cpu: cpu.saturating_sub(owners_cpu),
            owners_at,
            unknown: found.unknown,
            half_open,
            close_wait: found.close_wait.total().sockets,
        });
        self.note_ready();
        Ok(())
    }

    /// Answers those who asked for no more than a look has found out.
    fn answer_questions(
        &mut self,
        found_out: Wants,
        unanswered: Option<UnansweredSurvey>,
        port_holders: NamedPortHolders,
    ) {
        let asking = std::mem::take(&mut self.asking);
        let (answered, left): (Vec<_>, Vec<_>) = asking
            .into_iter()
            .partition(|(wants, _)| found_out.cover(*wants));
        self.asking = left;
        let is_wanted = answered.iter().any(|(wants, _)| wants.unanswered);
        let connections = unanswered.filter(|_| is_wanted).map(|survey| Connections {
            outgoing: self.namespaces.outgoing(),
            unanswered: survey.groups(),
            port_holders,
        });
        // Where the owners could not be told this time, what is known of them is of another time.
        let are_owners_told = self
            .last
            .is_some_and(|last| last.close_wait == 0 || last.owners_at == Some(last.began));
        for (_, question) in answered {
            match question {
                Question::CloseWait(answer) => {
                    if let Some(found) = self.close_waits.last().filter(|_| are_owners_told) {
                        let _ = answer.send(Arc::clone(found));
                    }
                }
                Question::Listeners(answer) => {
                    let _ = answer.send(self.owned_listeners());
                }
                Question::Connections(answer) => {
                    if let Some(connections) = &connections {
                        let _ = answer.send(connections.clone());
                    }
                }
                Question::Everything(answer) => {
                    let close_wait = self.close_waits.last();
                    let _ = answer.send(Seen {
                        close_wait: close_wait.filter(|_| are_owners_told).cloned(),
                        connections: connections.clone(),
                        listeners: self.owned_listeners(),
                    });
                }
                Question::Read(_) | Question::RecentEnds(_) | Question::Ready(_) => {}
            }
        }
    }
}
