//! What the descriptors alone tell: a walk over them takes half as long as one over the sockets and
//! one over the descriptors behind it, and of a leak that stays as it is it tells everything.
//!
//! It is tried where the last walk over both found every socket with a process, while nothing
//! moved. It is believed where the sockets that it finds in each namespace are as many as the
//! gauges say, give or take those that came or went meanwhile; a few times in a row, because among
//! those some that nobody holds could hide.

use std::{collections::BTreeMap, time::Instant};

use rustc_hash::FxHashMap;
use tcpstate_common::{NamespaceCounters, StateFlow, TcpState};
use tracing::{debug, warn};

use super::{
    super::{
        count::Walk,
        shared::{Shared, lock},
    },
    CloseWait, monotonic_ns,
};
use crate::model::close_wait::{Holdings, Survey, Tally, TickRate};

/// How often in a row it is believed though not as many were found as there are.
const NEAR: u32 = 3;
/// After having been refused in vain so often, no longer pauses are made.
const REFUSED: u32 = 6;

/// Whether the descriptors alone are to be asked.
#[derive(Debug, Default)]
pub(super) struct Trust {
    is_given: bool,
    /// How often in a row they were near the truth.
    near: u32,
    /// How often in a row they were not.
    refused: u32,
    /// How many walks over the sockets are made, whatever they find, before they are asked again.
    pause: u32,
}

/// How what the descriptors tell agrees with the gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// As many sockets, and none moved meanwhile.
    Exact,
    /// The difference is no more than what moved meanwhile.
    Near,
    /// There are others.
    None,
}

impl Trust {
    /// After a walk over the sockets. `is_plain`: each had a process that holds it, and nothing
    /// moved meanwhile.
    pub(super) const fn surveyed(&mut self, is_plain: bool) {
        self.near = 0;
        self.is_given = is_plain && self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
    }

    const fn asked(&mut self, agreement: Agreement) {
        match agreement {
            Agreement::Exact => (self.near, self.refused) = (0, 0),
            Agreement::Near => {
                self.near += 1;
                self.is_given = self.near < NEAR;
            }
            Agreement::None => {
                self.is_given = false;
                // Where it always comes to nothing, it is tried ever more seldom.
                if self.refused < REFUSED {
                    self.refused += 1;
                }
                self.pause = 1 << self.refused;
            }
        }
    }
}

/// What the gauges say of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Sockets in CLOSE_WAIT; `None` where that is not exactly known.
    close_wait: Option<u64>,
    /// Sockets that came into CLOSE_WAIT or went out of it since some time, wrapping around.
    moves: u32,
    /// Sockets that listen.
    listening: u64,
}

/// Of every namespace that has sockets in CLOSE_WAIT, by inode number.
pub(super) type Standings = BTreeMap<u32, Standing>;

impl Shared {
    pub(super) fn standings(&self) -> Standings {
        let namespaces = self.namespaces();
        let standings = namespaces.watched.iter().filter_map(|(&inode, watched)| {
            let model = watched.model.as_ref()?;
            let counters = self.counters(inode);
            let census = model.census(&counters, None);
            let standing = Standing {
                close_wait: model.exactly(TcpState::CloseWait, &counters),
                moves: moves(&counters),
                listening: census.in_state(TcpState::Listen),
            };
            (census.in_state(TcpState::CloseWait) > 0).then_some((inode, standing))
        });
        standings.collect()
    }

    /// Finds out who keeps sockets in CLOSE_WAIT by their descriptors. `None` where these may not
    /// be all.
    pub(super) fn found_with_holders(
        &self,
        walk: Walk,
        tick_rate: Option<TickRate>,
        begun: Instant,
    ) -> Option<CloseWait> {
        if !lock(&self.naming.known).trust.is_given {
            return None;
        }
        let before = self.standings();
        if !are_exact(&before) {
            return None;
        }
        let mut listeners = self.begin_owner_walk()?;
        let listening = listeners.ports();
        let mut known = FxHashMap::<u32, u64>::default();
        for ((namespace, _), sockets) in &listening {
            *known.entry(*namespace).or_default() += sockets;
        }
        let are_known = before.iter().all(|(namespace, standing)| {
            known.get(namespace).copied().unwrap_or(0) == standing.listening
        });
        if !are_known {
            return None;
        }
        let survey = Survey::of_listeners(
            monotonic_ns(),
            tick_rate,
            before.keys().copied(),
            listening.into_keys(),
        );
        let mut holdings = Holdings::default();
        let walked = walk.begin(self.socket_pass.as_ref()?)?.owners(|owner| {
            holdings.add(&owner, &survey);
            listeners.add(&owner);
        });
        let processes = walked
            .inspect_err(|error| warn!(%error, "cannot tell who holds the sockets in CLOSE_WAIT"))
            .ok()?;
        self.end_owner_walk(listeners, &processes);
        let groups = holdings.into_groups();
        let mut held = FxHashMap::<u32, u64>::default();
        let mut total = Tally::default();
        for group in groups.iter().flatten() {
            *held.entry(group.service.namespace).or_default() += group.tally.sockets;
            total.merge(&group.tally);
        }
        let agreement = match &groups {
            Some(_) => agreement(&held, &before, &self.standings()),
            None => Agreement::None,
        };
        lock(&self.naming.known).trust.asked(agreement);
        if agreement == Agreement::None {
            debug!("not every socket in CLOSE_WAIT is known to be held by a descriptor");
            return None;
        }
        Some(CloseWait {
            is_surveyed: false,
            ..self.with_owners(groups?, total, &processes, begun)
        })
    }
}

/// Whether it is exactly known how many sockets there are, everywhere.
pub(super) fn are_exact(standings: &Standings) -> bool {
    let mut all = standings.values();
    all.all(|standing| standing.close_wait.is_some())
}

fn moves(counters: &NamespaceCounters) -> u32 {
    let of_families = counters.flow.iter();
    of_families.fold(0, |moves, of_family| {
        let StateFlow { entered, left } = of_family[TcpState::CloseWait.slot()];
        moves.wrapping_add(entered).wrapping_add(left)
    })
}

/// Whether the `held` sockets, by namespace, are all that there are, by what the gauges said
/// `before` the walk that found them and say `after` it.
fn agreement(held: &FxHashMap<u32, u64>, before: &Standings, after: &Standings) -> Agreement {
    if !before.keys().eq(after.keys()) {
        return Agreement::None;
    }
    let mut worst = Agreement::Exact;
    for (namespace, now) in after {
        let held = held.get(namespace).copied().unwrap_or(0);
        let moved = now.moves.wrapping_sub(before[namespace].moves);
        match now.close_wait.map(|count| held.abs_diff(count)) {
            Some(0) if moved == 0 => {}
            Some(difference) if difference <= moved.into() => worst = Agreement::Near,
            _ => return Agreement::None,
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(close_wait: Option<u64>, moves: u32) -> Standings {
        let standing = Standing {
            close_wait,
            moves,
            listening: 1,
        };
        BTreeMap::from([(7, standing)])
    }

    #[test]
    fn those_that_are_held_are_all_but_for_what_moved_meanwhile() {
        for (held, moves, close_wait, expected) in [
            (100, 0, Some(100), Agreement::Exact),
            (99, 0, Some(100), Agreement::None),
            (101, 0, Some(100), Agreement::None),
            (100, 1, Some(100), Agreement::Near),
            (99, 1, Some(100), Agreement::Near),
            (97, 3, Some(100), Agreement::Near),
            (96, 3, Some(100), Agreement::None),
            (100, 0, None, Agreement::None),
        ] {
            let before = standings(Some(100), u32::MAX);
            let after = standings(close_wait, u32::MAX.wrapping_add(moves));
            let held = FxHashMap::from_iter([(7, held)]);
            let found = agreement(&held, &before, &after);
            assert_eq!(found, expected, "{held:?} of {close_wait:?}, {moves} moved");
        }
    }

    #[test]
    fn sockets_in_a_namespace_that_had_none_before_are_not_known() {
        let held = FxHashMap::from_iter([(7, 100)]);
        let one = standings(Some(100), 0);
        let none = BTreeMap::new();
        assert_eq!(agreement(&held, &none, &one), Agreement::None);
        assert_eq!(agreement(&held, &one, &none), Agreement::None);
    }

    #[test]
    fn what_is_only_near_is_not_believed_for_ever() {
        let mut trust = Trust::default();
        trust.surveyed(true);
        for _ in 0..10 {
            trust.asked(Agreement::Exact);
            assert!(trust.is_given);
        }
        for _ in 1..NEAR {
            trust.asked(Agreement::Near);
            assert!(trust.is_given);
        }
        trust.asked(Agreement::Near);
        assert!(!trust.is_given);
        trust.surveyed(false);
        assert!(!trust.is_given);
        trust.surveyed(true);
        assert!(trust.is_given);
    }

    #[test]
    fn what_comes_to_nothing_is_tried_ever_more_seldom() {
        let mut trust = Trust::default();
        let mut tries = 0;
        for _ in 0..200 {
            trust.surveyed(true);
            if trust.is_given {
                tries += 1;
                trust.asked(Agreement::None);
            }
        }
        assert!((5..=8).contains(&tries), "{tries}");
        while !trust.is_given {
            trust.surveyed(true);
        }
        trust.asked(Agreement::Exact);
        trust.asked(Agreement::None);
        for _ in 0..2 {
            trust.surveyed(true);
            assert!(!trust.is_given);
        }
        trust.surveyed(true);
        assert!(trust.is_given);
    }
}
