//! The listening sockets that the kernel side knows, and their queues.

use std::{collections::BTreeSet, io};

use aya::maps::{HashMap, MapData};
use tcpstate_common::{ListenerCounters, ListenerRecord};
use tracing::debug;

use super::{map_iterator::MapIterator, socket_pass::read_records, wire::Wire};
use crate::decode::ListeningSocket;

/// How often to walk over the table at most.
const WALKS: usize = 4;

/// Reads the queues of all listening sockets, of all network namespaces, at once.
pub struct ListenerTable {
    sockets: HashMap<MapData, u64, Wire<ListenerCounters>>,
    iterator: MapIterator,
    /// Sockets that were not listening when they were last looked at. The kernel side takes a
    /// socket in a moment before it listens.
    doubtful: BTreeSet<u64>,
    /// Sockets that were listening then, rising.
    last: Vec<u64>,
    order: Order,
}

/// The order in which a walk came to the sockets. As long as none comes or goes, the next one
/// comes to them in the same, and need not be sorted.
#[derive(Default)]
struct Order {
    walked: Vec<u64>,
    /// Where in the walk each came, by rising socket.
    rising: Vec<usize>,
}

impl ListenerTable {
    pub(super) fn new(
        sockets: HashMap<MapData, u64, Wire<ListenerCounters>>,
        iterator: MapIterator,
    ) -> Self {
        Self {
            sockets,
            iterator,
            doubtful: BTreeSet::new(),
            last: Vec::new(),
            order: Order::default(),
        }
    }

    /// Every listening socket, each once, by rising [`ListeningSocket::socket`]. Takes
    /// less than 1 µs for each.
    ///
    /// The kernel walks over its table while sockets come and go, and then it can pass over one or
    /// come to it twice: it only remembers how far it is in a bucket
    /// ([`bpf_hash_map_seq_find_next()`][walk]). Of 3,000 one was missed in a few hundred walks. One
    /// that was there the last time and is still in the table is looked for again.
    ///
    /// [walk]: https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/hashtab.c
    pub fn read(&mut self) -> io::Result<Vec<ListeningSocket>> {
        let mut walked = Vec::with_capacity(self.last.len());
        let mut found = Vec::new();
        let mut not_listening = BTreeSet::new();
        for _ in 0..WALKS {
            read_records(self.iterator.open()?, |record: ListenerRecord| {
                match ListeningSocket::try_from(record) {
                    Ok(listening) => walked.push(listening),
                    Err(_) => {
                        not_listening.insert(record.socket);
                    }
                }
            })?;
            found = self.order.rising(&walked);
            if !self.has_passed_over(&found, &not_listening) {
                break;
            }
        }
        self.last.clear();
        self.last
            .extend(found.iter().map(|listening| listening.socket));
        let twice = self.doubtful.intersection(&not_listening).copied();
        for socket in twice.collect::<Vec<_>>() {
            self.forget(socket);
        }
        self.doubtful = not_listening;
        Ok(found)
    }

    /// Whether one was not found that is there.
    fn has_passed_over(&self, found: &[ListeningSocket], not_listening: &BTreeSet<u64>) -> bool {
        let mut found = found.iter().map(|listening| listening.socket).peekable();
        self.last.iter().any(|last| {
            while found.next_if(|socket| socket < last).is_some() {}
            found.peek() != Some(last)
                && !not_listening.contains(last)
                && self.sockets.get(last, 0).is_ok()
        })
    }

    /// Forgets a socket whose end was not seen.
    fn forget(&mut self, socket: u64) {
        if let Err(error) = self.sockets.remove(&socket) {
            // Gone meanwhile.
            debug!(%error, "a socket that listens no more was not known any more");
        }
    }
}

impl Order {
    /// Each of the sockets that were `walked` over once, by rising [`ListeningSocket::socket`].
    fn rising(&mut self, walked: &[ListeningSocket]) -> Vec<ListeningSocket> {
        let sockets = walked.iter().map(|listening| listening.socket);
        if !sockets.clone().eq(self.walked.iter().copied()) {
            self.walked.clear();
            self.walked.extend(sockets);
            self.rising.clear();
            self.rising.extend(0..walked.len());
            self.rising.sort_unstable_by_key(|&at| walked[at].socket);
            self.rising.dedup_by_key(|at| walked[*at].socket);
        }
        self.rising.iter().map(|&at| walked[at]).collect()
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_common::Family;

    use super::*;

    fn listening(socket: u64, accept_queue: u32) -> ListeningSocket {
        ListeningSocket {
            socket,
            namespace: 1,
            family: Family::Ipv4,
            address: "0.0.0.0:80".parse().unwrap(),
            accept_queue,
            accept_limit: 0,
            half_open: 0,
            drops: 0,
            synack_retransmits: 0,
            begun_ns: None,
        }
    }

    #[test]
    fn each_comes_once_in_its_order_whether_or_not_any_have_come_or_gone() {
        let mut order = Order::default();
        for walk in [
            &[][..],
            &[(3, 1), (1, 2), (2, 3)],
            &[(3, 4), (1, 5), (2, 6)],
            &[(3, 7), (2, 8)],
            &[(3, 7), (2, 8), (3, 7), (1, 9)],
            &[(3, 7), (2, 8), (4, 1)],
        ] {
            let walked: Vec<_> = walk.iter().map(|of| listening(of.0, of.1)).collect();
            let mut expected = walk.to_vec();
            expected.sort_unstable();
            expected.dedup();
            let rising = order.rising(&walked);
            let rising: Vec<_> = rising
                .iter()
                .map(|of| (of.socket, of.accept_queue))
                .collect();
            assert_eq!(rising, expected);
        }
    }
}
