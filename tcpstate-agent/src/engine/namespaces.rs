//! The network namespaces of the host, as they are known.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use tracing::warn;

use super::reader::Fresh;
use crate::{
    collect::{
        counters::{KernelCounters, KernelTotals, Origin},
        listeners::{ListeningSocket, Served},
        outgoing::NamespaceOutgoing,
        sockets::{NamespaceId, NamespaceModel, Pass},
    },
    decode::Limits,
    kernel::{Flow, MapError},
};
use tcpstate_common::HalfOpenCounts;

/// All of them.
#[derive(Default)]
pub(super) struct Namespaces {
    /// By inode number.
    watched: BTreeMap<u32, Watched>,
    served: BTreeMap<u32, Served>,
    half_open: BTreeMap<u32, HalfOpenCounts>,
    /// What the kernel counted itself in all of them.
    totals: KernelTotals,
    /// The listening sockets as they were last read.
    listeners: Vec<ListeningSocket>,
    /// The limits of the agent's own.
    own_limits: Option<Limits>,
    /// They were read once: those that come now are new.
    are_known: bool,
    /// Transitions of which it is not known whether they were of a namespace that is gone or of the
    /// one that has come to lie in its place in memory.
    uncertain_transitions: u64,
    /// There was no room for the live counters of some, and that has been said.
    is_without_counters: bool,
    /// Transitions for which there was no room, as last read.
    untracked: u64,
}

/// One of them.
pub(super) struct Watched {
    pub(super) id: NamespaceId,
    /// The address of its `struct net`.
    pub(super) net: u64,
    /// What is known of its sockets; `None` before the first look.
    pub(super) model: Option<NamespaceModel>,
    /// Where its connections go, as the last look has found them.
    pub(super) outgoing: NamespaceOutgoing,
    /// Timewait minisockets, as the kernel last said.
    pub(super) minisockets: u64,
    /// Whether it is older than the agent.
    origin: Origin,
    /// The last look found something else in it than the kernel counts.
    has_disagreed: bool,
}

impl Watched {
    /// Transitions since the last look.
    fn moved(&self, flow: &Flow) -> u64 {
        let live = flow.namespace(self.net).inspect_err(
            |error| warn!(%error, "cannot read the live counters of a namespace that is gone"),
        );
        match (&self.model, live) {
            (Some(model), Ok(live)) => model.moved_since(&live),
            _ => 0,
        }
    }
}

impl Namespaces {
    /// Takes note of what the kernel's list says: which there are, and what it counts in each.
    /// Transitions that nothing saw were `missed`, when that was last read.
    pub(super) fn note(&mut self, fresh: &Fresh, flow: Option<&mut Flow>, missed: u64) {
        // There is always the agent's own: a list without any is none.
        if fresh.namespaces.is_empty() {
            return;
        }
        let origin = if self.are_known {
            Origin::SinceAgent
        } else {
            Origin::BeforeAgent
        };
        self.are_known = true;
        let mut flow = flow;
        let there: BTreeSet<(NamespaceId, u64)> = fresh
            .namespaces
            .iter()
            .map(|namespace| (namespace.id(), namespace.net))
            .collect();
        let gone: Vec<u32> = self
            .watched
            .iter()
            .filter(|(_, watched)| !there.contains(&(watched.id, watched.net)))
            .map(|(inode, _)| *inode)
            .collect();
        // At their places others were before, whose counters they have.
        let mut replaced = BTreeSet::new();
        for inode in gone {
            self.served.remove(&inode);
            self.half_open.remove(&inode);
            let (Some(watched), Some(flow)) = (self.watched.remove(&inode), flow.as_deref_mut())
            else {
                continue;
            };
            if fresh
                .namespaces
                .iter()
                .any(|other| other.net == watched.net)
            {
                // That goes on with its counters, and what was counted since the last look may be
                // of either.
                self.uncertain_transitions += watched.moved(flow);
                replaced.insert(watched.net);
            } else if let Err(error) = flow.remove_namespace(watched.net) {
                warn!(%error, namespace = inode, "cannot remove the live counters of a namespace");
            }
        }
        let ids: BTreeSet<NamespaceId> = there.into_iter().map(|(id, _)| id).collect();
        self.totals.keep_only(|id| ids.contains(&id));
        let mut new = Vec::new();
        for namespace in &fresh.namespaces {
            let id = namespace.id();
            let watched = self.watched.entry(namespace.inode).or_insert_with(|| {
                if matches!(origin, Origin::SinceAgent) && !replaced.contains(&namespace.net) {
                    new.push(namespace.inode);
                }
                Watched {
                    id,
                    net: namespace.net,
                    model: None,
                    outgoing: NamespaceOutgoing::default(),
                    minisockets: 0,
                    origin,
                    has_disagreed: false,
                }
            });
            watched.minisockets = namespace.minisockets;
            self.totals.add(id, watched.origin, &namespace.counters);
            // Tried again each time, because room may have come; said once.
            if let Some(flow) = flow.as_deref_mut()
                && let Err(error) = flow.add_namespace(namespace.net, id)
                && !std::mem::replace(&mut self.is_without_counters, true)
            {
                warn!(%error, namespace = namespace.inode, "no live counters for a namespace; its gauges, and those of others without, change with snapshots only");
            }
            if namespace.net == fresh.own_net {
                self.own_limits = Some(namespace.limits);
            }
        }
        // Not into what was there: that may have had room for very many.
        self.listeners.clone_from(&fresh.listeners);
        if let Some(flow) = flow
            && let Err(error) = self.begin(&new, flow, missed)
        {
            warn!(%error, "cannot read the live counters of new namespaces; their gauges begin with the next snapshot");
        }
    }

    /// Shows those that are new at once, where their live counters hold everything since they began.
    fn begin(&mut self, new: &[u32], flow: &mut Flow, missed: u64) -> Result<(), MapError> {
        // Read behind the new ones' counters have been made: what follows is in these.
        let untracked = flow.events()?.untracked;
        let is_all_there = std::mem::replace(&mut self.untracked, untracked) == untracked;
        for inode in new.iter().filter(|_| is_all_there) {
            let Some(watched) = self.watched.get_mut(inode) else {
                continue;
            };
            let live = flow.namespace(watched.net)?;
            // Without an element it has none.
            if live.net != 0 && !flow.may_lack(watched.net) {
                let model = NamespaceModel::since_it_began(&live, Instant::now(), missed);
                watched.model = Some(model);
            }
        }
        flow.tidy(Instant::now())
    }

    /// Whether what a look has found in one may be shown, which agrees with what the kernel counts or
    /// not. What does not agree is shown where there is nothing else to show, or where the look before
    /// it did not agree either: then it is the kernel's number that is another one.
    pub(super) fn is_believed(&mut self, inode: u32, agrees: bool) -> bool {
        let Some(watched) = self.watched.get_mut(&inode) else {
            return true;
        };
        let has_disagreed = std::mem::replace(&mut watched.has_disagreed, !agrees);
        agrees || has_disagreed || watched.model.is_none()
    }

    /// Learns what a look has found in one.
    pub(super) fn learn(
        &mut self,
        inode: u32,
        cookie: Option<u64>,
        pass: &Pass,
        outgoing: NamespaceOutgoing,
        served: Served,
    ) {
        let Some(watched) = self.watched.get_mut(&inode) else {
            return;
        };
        // Another one has the number now.
        if watched.id.cookie != cookie {
            return;
        }
        match &mut watched.model {
            Some(model) => model.correct(pass),
            None => watched.model = Some(NamespaceModel::new(pass)),
        }
        watched.outgoing = outgoing;
        self.served.insert(inode, served);
        self.half_open.insert(inode, pass.counts.half_open);
    }

    /// Transitions that cannot be told to be of one namespace or of another.
    pub(super) const fn uncertain_transitions(&self) -> u64 {
        self.uncertain_transitions
    }

    /// The one with this inode number.
    pub(super) fn of(&self, inode: u32) -> Option<&Watched> {
        self.watched.get(&inode)
    }

    /// Each of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Watched> {
        self.watched.values()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.watched.len() as u64
    }

    /// Their connections by what they came to.
    pub(super) const fn served(&self) -> &BTreeMap<u32, Served> {
        &self.served
    }

    /// The half-open connections of all, as the last look has found them.
    pub(super) fn half_open(&self) -> HalfOpenCounts {
        let mut all = HalfOpenCounts::default();
        for of_namespace in self.half_open.values() {
            all.merge(of_namespace);
        }
        all
    }

    /// Where the connections of each go.
    pub(super) fn outgoing(&self) -> Vec<(u32, NamespaceOutgoing)> {
        self.watched
            .iter()
            .filter(|(_, watched)| watched.model.is_some())
            .map(|(inode, watched)| (*inode, watched.outgoing.clone()))
            .collect()
    }

    /// What the kernel counted itself since the start.
    pub(super) const fn kernel_counters(&self) -> &KernelCounters {
        self.totals.totals()
    }

    /// The limits of the agent's own.
    pub(super) const fn own_limits(&self) -> Option<Limits> {
        self.own_limits
    }

    /// Takes note of what listens.
    pub(super) fn note_listeners(&mut self, listeners: Vec<ListeningSocket>) {
        self.listeners = listeners;
    }

    /// The listening sockets as they were last read.
    pub(super) fn listeners(&self) -> &[ListeningSocket] {
        &self.listeners
    }
}
