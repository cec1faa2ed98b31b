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
    collect::close_wait::Cause,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(inode: u64, unread: u32) -> TcpSocket {
        TcpSocket {
            local: "127.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.7:4000".parse().unwrap(),
            state: 8,
            unacknowledged: 0,
            unread,
            inode,
        }
    }

    #[test]
    fn what_was_in_close_wait_before_the_watch_is_a_group_of_its_own() {
        let sockets = Sockets {
            held: vec![socket(1, 0), socket(2, 0), socket(3, 0), socket(4, 1)],
            unaccepted: vec![socket(0, 1)],
            before_watch: [1, 2].into_iter().collect(),
            were_read: true,
            listens_on: vec![80],
        };
        let (groups, recent) = group(&sockets, None, &[], 0);
        let found: Vec<(&str, bool, u64)> = groups
            .iter()
            .map(|group| (group.cause, group.before_watch, group.sockets))
            .collect();
        let expected = [
            ("eof_read", true, 2),
            ("eof_read", false, 1),
            ("fin_unread", false, 1),
            ("unaccepted", false, 1),
        ];
        assert_eq!((&found[..], recent), (&expected[..], 0));
        assert_eq!(sockets.inodes(), [1, 2, 3, 4].into_iter().collect());
    }
}
