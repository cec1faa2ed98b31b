//! What follows from a search: which namespaces are watched, which have live counters, and which
//! are out of reach.

use std::collections::{BTreeMap, BTreeSet};

use tracing::warn;

use super::shared::{Namespaces, Shared, Watched};
use crate::{bpf::Flow, model::Origin, netns::Found};

/// Searches in a row without finding a namespace after which it is taken for gone. A process
/// that forks and exits while `/proc` is read can be missed once.
const MISSES: u8 = 2;

/// Takes note of what was found, of which those that are new have this origin.
pub(super) fn learn(shared: &Shared, found: Found, origin: Origin) {
    let mut namespaces = shared.namespaces();
    let Namespaces {
        watched,
        hidden,
        unreachable,
        kernel,
    } = &mut *namespaces;
    note_hidden(hidden, &found, watched);
    let mut gone = Vec::new();
    watched.retain(|inode, watched| {
        watched.missed = if found.namespaces.contains_key(inode) {
            0
        } else {
            watched.missed + 1
        };
        let stays = watched.missed < MISSES;
        if !stays {
            gone.push(*inode);
            kernel.totals.note_gone(*inode);
        }
        stays
    });
    let new = new_ones(watched, found, origin);
    // Live counters come before the first snapshot, which this lock puts off.
    if let Some(mut flow) = shared.flow() {
        watched.extend(new);
        *unreachable = tell_kernel_side(&mut flow, &gone, watched);
    } else {
        watched.extend(new);
    }
    drop(namespaces);
    for inode in gone {
        shared.forget_services(inode);
    }
}

fn note_hidden(hidden: &mut u64, found: &Found, watched: &BTreeMap<u32, Watched>) {
    // One that is reached by another way, through a mount for instance, is not hidden.
    let entered: BTreeSet<u64> = watched
        .values()
        .filter_map(|watched| watched.mark)
        .collect();
    let mut still = found
        .hidden
        .iter()
        .filter(|hidden| !entered.contains(&hidden.mark))
        .peekable();
    let process = still.peek().map(|hidden| hidden.process.display());
    let now = u64::try_from(still.count()).unwrap_or(u64::MAX);
    if now > *hidden {
        warn!(
            namespaces = now,
            process = process.map(tracing::field::display),
            "cannot look into the network namespaces of other processes, they are in no gauge \
             (grant CAP_SYS_PTRACE)"
        );
    }
    *hidden = now;
}

/// Makes and removes live counters. Returns the namespaces that show transitions and were not
/// found.
fn tell_kernel_side(
    flow: &mut Flow,
    gone: &[u32],
    watched: &mut BTreeMap<u32, Watched>,
) -> BTreeSet<u32> {
    for &inode in gone {
        remove_live_counters(flow, inode);
    }
    for (&inode, watched) in &mut *watched {
        // Tried again each time, because room may have come; said once.
        if let Err(error) = flow.add_namespace(inode)
            && !std::mem::replace(&mut watched.is_without_counters, true)
        {
            warn!(%error, namespace = inode, "a namespace moves with snapshots only");
        }
    }
    let strangers = flow.strangers().unwrap_or_default();
    for &inode in &strangers {
        // Only those that still show transitions at the next search stay.
        if let Err(error) = flow.forget_stranger(inode) {
            warn!(%error, namespace = inode, "cannot forget a namespace");
        }
    }
    strangers
        .into_iter()
        .filter(|inode| !watched.contains_key(inode))
        .collect()
}

/// Takes the live counters of a namespace that is gone.
pub(super) fn remove_live_counters(flow: &mut Flow, inode: u32) {
    if let Err(error) = flow.remove_namespace(inode) {
        warn!(%error, namespace = inode, "cannot remove the live counters of a namespace");
    }
}

/// Refreshes the routes to the namespaces that are watched, and returns those that are not yet.
fn new_ones(
    watched: &mut BTreeMap<u32, Watched>,
    found: Found,
    origin: Origin,
) -> Vec<(u32, Watched)> {
    let mut new = Vec::new();
    for (inode, namespace) in found.namespaces {
        match watched.get_mut(&inode) {
            Some(watched) => {
                watched.is_gone = false;
                let is_known = |route| watched.namespace.routes.contains(route);
                if let Some(failure) = &mut watched.failure
                    && !namespace.routes.iter().any(is_known)
                {
                    failure.begin_anew();
                }
                watched.namespace = namespace;
            }
            None => new.push((inode, Watched::new(namespace, origin))),
        }
    }
    new
}
