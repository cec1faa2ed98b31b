//! From sockets and stacks to groups.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};
use tcpstate_common::{SampleKind, SocketTrace};

use super::{PeerCount, Place, SocketGroup, UNKNOWN_CAUSE};
use crate::{
    code_location::{
        elsewhere::SocketsElsewhere,
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
/// Of Linux's include/uapi/linux/in.h.
const IPPROTO_MPTCP: u16 = 262;

/// The sockets in CLOSE_WAIT of a process, as they are now.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Those that it holds, of the namespaces that its threads are in.
    pub held: Vec<TcpSocket>,
    /// Those that wait at its listeners there to be accepted.
    pub unaccepted: Vec<TcpSocket>,
    /// Those of other namespaces.
    pub elsewhere: Vec<SocketsElsewhere>,
    /// Those that were in CLOSE_WAIT before the watch began.
    pub before_watch: Known,
    /// Whether they could be read.
    pub were_read: bool,
    /// Namespaces and ports that it listens on: connections from them are a server's.
    pub listens_on: FxHashSet<(u32, u16)>,
    /// Connections that it holds in other states: above them may be one of MPTCP, which has a state
    /// of its own.
    pub connected: FxHashSet<Addresses>,
}

/// The network namespace of a connection and its addresses: its own and the peer's.
type Addresses = (u32, SocketAddr, SocketAddr);

/// Sockets that were there at a time.
#[derive(Debug, Default)]
pub struct Known {
    /// By inode number.
    pub inodes: FxHashSet<u64>,
    /// By address, those of other namespaces.
    pub addresses: FxHashSet<u64>,
}

impl Sockets {
    /// Picks a process's own out of its namespaces'.
    #[must_use]
    pub fn of(table: &TcpTable, inodes: impl Iterator<Item = u64>) -> Self {
        let by_inode = table.by_inode();
        let own: Vec<TcpSocket> = inodes
            .filter_map(|inode| by_inode.get(&inode).copied())
            .collect();
        let listens_on: FxHashSet<(u32, u16)> = own
            .iter()
            .filter(|socket| socket.is_listening())
            .map(|socket| (socket.namespace, socket.local.port()))
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
                        && listens_on.contains(&(socket.namespace, socket.local.port()))
                })
                .copied()
                .collect(),
            elsewhere: Vec::new(),
            before_watch: Known::default(),
            were_read: true,
            listens_on,
            connected: own
                .iter()
                .filter(|socket| !socket.is_listening() && !socket.is_in_close_wait())
                .map(addresses_of)
                .collect(),
        }
    }

    /// Those that it holds.
    #[must_use]
    pub fn known(&self) -> Known {
        Known {
            inodes: self.held.iter().map(|socket| socket.inode).collect(),
            addresses: self.elsewhere.iter().map(|found| found.socket).collect(),
        }
    }

    fn stuck<'a>(&self, traces: &Traces<'a>) -> Vec<Stuck<'a>> {
        let here = self.held.iter().chain(&self.unaccepted).map(|socket| {
            let addresses = addresses_of(socket);
            Stuck {
                count: 1,
                cause: socket.cause().name(),
                namespace: None,
                before_watch: self.before_watch.inodes.contains(&socket.inode),
                peer: Some(self.peer(addresses)),
                trace: traces.by_addresses.get(&addresses).copied(),
            }
        });
        let elsewhere = self.elsewhere.iter().map(|found| Stuck {
            count: found.count,
            cause: found.cause.name(),
            namespace: Some(found.namespace),
            before_watch: self.before_watch.addresses.contains(&found.socket),
            peer: found.remote.map(|remote| {
                let place = (found.namespace, found.local_port);
                peer(remote, self.listens_on.contains(&place))
            }),
            trace: traces.by_socket.get(&found.socket).copied(),
        });
        // Where the peer has closed an MPTCP connection, its subflows stay as they are.
        let above = traces.by_addresses.iter().filter(|(addresses, trace)| {
            trace.protocol == IPPROTO_MPTCP
                && trace.close_wait_ns != 0
                && self.connected.contains(*addresses)
        });
        let above = above.map(|(addresses, trace)| Stuck {
            count: 1,
            cause: if trace.seen[SampleKind::ReadEnd as usize] > 0 {
                Cause::EofRead.name()
            } else {
                UNKNOWN_CAUSE
            },
            namespace: None,
            before_watch: false,
            peer: Some(self.peer(*addresses)),
            trace: Some(*trace),
        });
        here.chain(elsewhere).chain(above).collect()
    }

    fn peer(&self, (namespace, local, remote): Addresses) -> String {
        peer(remote, self.listens_on.contains(&(namespace, local.port())))
    }
}

const fn addresses_of(socket: &TcpSocket) -> Addresses {
    (socket.namespace, socket.local, socket.remote)
}

fn peer(remote: SocketAddr, is_server: bool) -> String {
    if is_server {
        remote.ip().to_string()
    } else {
        remote.to_string()
    }
}

/// A socket that stays, or several that are alike.
struct Stuck<'a> {
    count: u64,
    cause: &'static str,
    /// Where no thread of the process is in it.
    namespace: Option<u32>,
    before_watch: bool,
    peer: Option<String>,
    trace: Option<&'a SocketTrace>,
}

/// What was seen of sockets.
#[derive(Default)]
struct Traces<'a> {
    by_addresses: FxHashMap<Addresses, &'a SocketTrace>,
    by_socket: FxHashMap<u64, &'a SocketTrace>,
}

impl<'a> Traces<'a> {
    fn of(seen: &'a Seen) -> Self {
        let mut traces = Self::default();
        for (socket, trace) in &seen.sockets {
            traces.by_socket.insert(*socket, trace);
            if let Some((local, remote)) = addresses(trace) {
                let place = (trace.namespace, local, remote);
                traces.by_addresses.insert(place, trace);
            }
        }
        traces
    }
}

/// What sockets of one group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    cause: &'static str,
    namespace: Option<u32>,
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
    let traces = seen.map(Traces::of).unwrap_or_default();
    let place = |sample: u32| {
        let stack = seen?.stack(sample)?;
        places.get(stack).cloned()
    };
    let mut groups: BTreeMap<Key, Members> = BTreeMap::new();
    let mut recent = 0;
    for stuck in sockets.stuck(&traces) {
        let trace = stuck.trace;
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
            cause: stuck.cause,
            namespace: stuck.namespace,
            watched: trace.is_some(),
            before_watch: stuck.before_watch,
            end_was_read,
            last_read: place(last),
            opened: place(sample(SampleKind::Open)),
            accepted: place(sample(SampleKind::Accept)),
        };
        let is_unsampled = key.last_read.is_none() && (end_was_read || was_seen(SampleKind::Read))
            || key.opened.is_none() && was_seen(SampleKind::Open);
        let members = groups.entry(key).or_default();
        members.sockets += stuck.count;
        members.unsampled += u64::from(is_unsampled);
        if let Some(first) = place(found.first_read) {
            *members.first_read.entry(first).or_default() += 1;
        }
        if let Some(peer) = stuck.peer {
            *members.peers.entry(peer).or_default() += 1;
        }
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
        namespace,
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
        namespace,
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
    use tcpstate_common::SampleAccount;

    use super::*;
    use crate::kernel::{Hooks, ReadHook};

    fn socket(inode: u64, unread: u32) -> TcpSocket {
        TcpSocket {
            namespace: 1,
            local: "127.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.7:4000".parse().unwrap(),
            state: 8,
            unacknowledged: 0,
            unread,
            inode,
        }
    }

    fn seen(sockets: Vec<(u64, SocketTrace)>) -> Seen {
        Seen {
            hooks: Hooks {
                read: ReadHook::SocketRead,
                accept: None,
            },
            lasted: Duration::from_secs(1),
            has_ended: false,
            account: SampleAccount::default(),
            sockets,
            stacks: Vec::new(),
            samples: FxHashMap::default(),
            dropped: 0,
            malformed: 0,
        }
    }

    #[test]
    fn an_mptcp_connection_stays_in_close_wait_though_its_subflow_does_not() {
        let trace = |remote_port, protocol, end_reads| {
            let mut trace = SocketTrace {
                close_wait_ns: 1,
                seen: [0, 0, 1, end_reads],
                family: 2,
                namespace: 1,
                local_port: 80,
                remote_port,
                protocol,
                ..SocketTrace::default()
            };
            trace.local_address[..4].copy_from_slice(&[127, 0, 0, 1]);
            trace.remote_address[..4].copy_from_slice(&[10, 0, 0, 7]);
            trace
        };
        let subflow = |remote_port| TcpSocket {
            remote: SocketAddr::from(([10, 0, 0, 7], remote_port)),
            state: 1,
            ..socket(u64::from(remote_port), 0)
        };
        let sockets = Sockets {
            connected: [1, 2, 3]
                .map(|port| addresses_of(&subflow(port)))
                .into_iter()
                .collect(),
            ..Sockets::default()
        };
        let seen = seen(vec![
            (0x10, trace(1, IPPROTO_MPTCP, 1)),
            (0x20, trace(2, IPPROTO_MPTCP, 0)),
            // One that is only said to be in CLOSE_WAIT still.
            (0x30, trace(3, 6, 1)),
            // One that the process holds no more.
            (0x40, trace(4, IPPROTO_MPTCP, 1)),
        ]);
        let (groups, _) = group(&sockets, Some(&seen), &[], u64::MAX);
        let found: Vec<(&str, &str)> = groups
            .iter()
            .map(|group| (group.cause, &*group.peers[0].address))
            .collect();
        let expected = [("eof_read", "10.0.0.7:1"), ("unknown", "10.0.0.7:2")];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_was_in_close_wait_before_the_watch_is_a_group_of_its_own() {
        let sockets = Sockets {
            held: vec![socket(1, 0), socket(2, 0), socket(3, 0), socket(4, 1)],
            unaccepted: vec![socket(0, 1)],
            elsewhere: Vec::new(),
            before_watch: Known {
                inodes: [1, 2].into_iter().collect(),
                addresses: FxHashSet::default(),
            },
            were_read: true,
            listens_on: [(1, 80)].into_iter().collect(),
            connected: FxHashSet::default(),
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
        let known = sockets.known();
        assert_eq!(known.inodes, [1, 2, 3, 4].into_iter().collect());
        assert!(known.addresses.is_empty());
    }

    #[test]
    fn sockets_of_other_namespaces_are_told_by_where_they_are_in_memory() {
        let elsewhere = |socket, cause| SocketsElsewhere {
            count: 1,
            socket,
            namespace: 9,
            local_port: 80,
            remote: Some("10.0.0.7:4000".parse().unwrap()),
            cause,
        };
        let sockets = Sockets {
            // The same addresses as in the process's own namespace.
            held: vec![socket(1, 0)],
            elsewhere: vec![
                elsewhere(0x10, Cause::EofRead),
                elsewhere(0x20, Cause::EofRead),
                SocketsElsewhere {
                    count: 5,
                    remote: None,
                    ..elsewhere(0x30, Cause::Unaccepted)
                },
            ],
            before_watch: Known {
                inodes: FxHashSet::default(),
                addresses: [0x20].into_iter().collect(),
            },
            ..Sockets::default()
        };
        let mut trace = SocketTrace {
            family: 2,
            namespace: 9,
            local_port: 80,
            remote_port: 4000,
            ..SocketTrace::default()
        };
        trace.local_address[..4].copy_from_slice(&[127, 0, 0, 1]);
        trace.remote_address[..4].copy_from_slice(&[10, 0, 0, 7]);
        let seen = seen(vec![(0x10, trace)]);
        let (groups, _) = group(&sockets, Some(&seen), &[], u64::MAX);
        let found: Vec<(&str, Option<u32>, bool, bool, u64)> = groups
            .iter()
            .map(|group| {
                (
                    group.cause,
                    group.namespace,
                    group.watched,
                    group.before_watch,
                    group.sockets,
                )
            })
            .collect();
        let expected = [
            ("unaccepted", Some(9), false, false, 5),
            ("eof_read", None, false, false, 1),
            ("eof_read", Some(9), false, true, 1),
            ("eof_read", Some(9), true, false, 1),
        ];
        assert_eq!(found, expected);
        assert!(groups[0].peers.is_empty());
    }
}
