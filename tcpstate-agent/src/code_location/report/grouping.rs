//! From sockets and stacks to groups.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};
use tcpstate_common::{SampleKind, SocketTrace};

use super::{PeerCount, Place, SocketGroup};
use crate::{
    code_location::{
        tcp_table::{TcpSocket, TcpTable},
        trace::addresses,
        watch::Seen,
    },
    model::close_wait::Cause,
};

/// Sockets that are younger may yet be closed.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// So many peers of a group are named.
const PEERS: usize = 3;

/// The sockets in CLOSE_WAIT of a process, as they are now.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Those that it holds.
    pub held: Vec<TcpSocket>,
    /// Those that wait at its listeners to be accepted.
    pub unaccepted: Vec<TcpSocket>,
    /// Inode numbers of those that were in CLOSE_WAIT before the watch began.
    pub before_watch: FxHashSet<u64>,
    /// Whether they could be read.
    pub were_read: bool,
    /// Ports that it listens on: connections from them are a server's.
    pub listens_on: Vec<u16>,
}

impl Sockets {
    /// Picks a process's own out of its namespace's.
    #[must_use]
    pub fn of(table: &TcpTable, inodes: impl Iterator<Item = u64>) -> Self {
        let by_inode = table.by_inode();
        let own: Vec<TcpSocket> = inodes
            .filter_map(|inode| by_inode.get(&inode).copied())
            .collect();
        let listens_on: Vec<u16> = own
            .iter()
            .filter(|socket| socket.is_listening())
            .map(|socket| socket.local.port())
            .collect();
        Self {
            held: own
                .iter()
                .filter(|socket| socket.is_in_close_wait())
                .copied()
                .collect(),
            unaccepted: table
                .sockets
                .iter()
                .filter(|socket| {
                    socket.is_in_close_wait()
                        && socket.inode == 0
                        && listens_on.contains(&socket.local.port())
                })
                .copied()
                .collect(),
            before_watch: FxHashSet::default(),
            were_read: true,
            listens_on,
        }
    }

    /// The inode numbers of those in CLOSE_WAIT that it holds.
    #[must_use]
    pub fn inodes(&self) -> FxHashSet<u64> {
        self.held.iter().map(|socket| socket.inode).collect()
    }
}

/// What sockets of one group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    cause: &'static str,
    watched: bool,
    before_watch: bool,
    end_was_read: bool,
    last_read: Option<Place>,
    opened: Option<Place>,
    accepted: Option<Place>,
}

#[derive(Default)]
struct Members {
    sockets: u64,
    unsampled: u64,
    first_read: BTreeMap<Place, u64>,
    peers: BTreeMap<String, u64>,
}

/// Groups the sockets, most first; and how many came into CLOSE_WAIT just now.
#[must_use]
pub fn group(
    sockets: &Sockets,
    seen: Option<&Seen>,
    places: &[Place],
    now_ns: u64,
) -> (Vec<SocketGroup>, u64) {
    let traces: FxHashMap<(SocketAddr, SocketAddr), &SocketTrace> = seen
        .into_iter()
        .flat_map(|seen| &seen.sockets)
        .filter_map(|trace| Some((addresses(trace)?, trace)))
        .collect();
    let place = |sample: u32| {
        let stack = seen?.stack(sample)?;
        places.get(stack).cloned()
    };
    let mut groups: BTreeMap<Key, Members> = BTreeMap::new();
    let mut recent = 0;
    for socket in sockets.held.iter().chain(&sockets.unaccepted) {
        let trace = traces.get(&(socket.local, socket.remote)).copied();
        if trace.is_some_and(|trace| is_recent(trace, now_ns)) {
            recent += 1;
            continue;
        }
        let empty = SocketTrace::default();
        let found = trace.unwrap_or(&empty);
        let sample = |kind: SampleKind| found.samples[kind as usize];
        let was_seen = |kind: SampleKind| found.seen[kind as usize] > 0;
        let end_was_read = was_seen(SampleKind::ReadEnd);
        let last = if end_was_read {
            sample(SampleKind::ReadEnd)
        } else {
            sample(SampleKind::Read)
        };
        let key = Key {
            cause: socket.cause().name(),
            watched: trace.is_some(),
            before_watch: sockets.before_watch.contains(&socket.inode),
            end_was_read,
            last_read: place(last),
            opened: place(sample(SampleKind::Open)),
            accepted: place(sample(SampleKind::Accept)),
        };
        let is_unsampled = key.last_read.is_none() && (end_was_read || was_seen(SampleKind::Read))
            || key.opened.is_none() && was_seen(SampleKind::Open);
        let members = groups.entry(key).or_default();
        members.sockets += 1;
        members.unsampled += u64::from(is_unsampled);
        if let Some(first) = place(found.first_read) {
            *members.first_read.entry(first).or_default() += 1;
        }
        let is_server = sockets.listens_on.contains(&socket.local.port());
        let peer = if is_server {
            socket.remote.ip().to_string()
        } else {
            socket.remote.to_string()
        };
        *members.peers.entry(peer).or_default() += 1;
    }
    let mut groups: Vec<SocketGroup> = groups
        .into_iter()
        .map(|(key, members)| made_of(key, members))
        .collect();
    groups.sort_by_key(|group| {
        let is_leak = group.cause == Cause::EofRead.name();
        (std::cmp::Reverse(group.sockets), !is_leak)
    });
    (groups, recent)
}

fn is_recent(trace: &SocketTrace, now_ns: u64) -> bool {
    let age = now_ns.saturating_sub(trace.close_wait_ns);
    trace.close_wait_ns != 0 && u128::from(age) < STUCK_AFTER.as_nanos()
}

fn made_of(key: Key, members: Members) -> SocketGroup {
    let Key {
        cause,
        watched,
        before_watch,
        end_was_read,
        last_read,
        opened,
        accepted,
    } = key;
    let first_read = members
        .first_read
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(place, _)| place);
    let mut peers: Vec<PeerCount> = members
        .peers
        .into_iter()
        .map(|(address, sockets)| PeerCount { address, sockets })
        .collect();
    peers.sort_by_key(|peer| std::cmp::Reverse(peer.sockets));
    peers.truncate(PEERS);
    SocketGroup {
        sockets: members.sockets,
        cause,
        watched,
        before_watch,
        unsampled: members.unsampled,
        last_read,
        end_was_read,
        first_read,
        opened,
        accepted,
        peers,
    }
}
