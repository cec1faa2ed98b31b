//! Which series each listening socket belongs to.

use std::{net::SocketAddr, sync::Arc};

use rustc_hash::{FxBuildHasher, FxHashMap};
use tcpstate_common::ListenAddress;

use super::{ListenerKey, ListeningSocket};
use crate::collect::{LabelSet, owners::OwnerLabels};

/// The labels of who holds a socket.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// The labels.
    pub labels: &'a Arc<OwnerLabels>,
    /// The place of these labels among all, in their order. Equal ones have the same.
    pub order: u32,
}

/// Which series each of the sockets belongs to. It stays as it is for as long as the sockets and
/// their owners do: with ten thousand of them it takes longer to make than to count by.
#[derive(Debug, Default)]
pub struct Assignment {
    of_sockets: Vec<Option<u32>>,
    /// In the order of their labels.
    series: Vec<Assigned>,
    of_connections: FxHashMap<ListenAddress, u32>,
}

/// A series that sockets are assigned to.
#[derive(Debug)]
struct Assigned {
    labels: Arc<OwnerLabels>,
    address: SocketAddr,
    set: LabelSet,
    /// Of all its sockets the kernel has chosen the port.
    is_any_port: bool,
}

/// What tells one series from another, in numbers that rise with the labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    labels: u32,
    family: u16,
    port: u16,
    address: u128,
}

impl Key {
    const fn new(labels: u32, address: &ListenAddress) -> Self {
        Self {
            labels,
            family: address.family,
            port: address.port,
            address: u128::from_be_bytes(address.address),
        }
    }
}

impl Assignment {
    /// Assigns each of `sockets` to the series of its labels and address; one whose owner is not
    /// known yet to none.
    #[must_use]
    pub fn new<'a>(
        sockets: impl Iterator<Item = (&'a ListeningSocket, Option<Labelled<'a>>)> + Clone,
    ) -> Self {
        let (_, most) = sockets.size_hint();
        let mut found = FxHashMap::with_capacity_and_hasher(most.unwrap_or(0), FxBuildHasher);
        for (socket, holder) in sockets.clone() {
            if let Some(Labelled { labels, order }) = holder {
                let key = Key::new(order, &socket.listen_address());
                let (_, _, is_any_port) =
                    found.entry(key).or_insert((labels, socket.address, true));
                *is_any_port &= socket.is_any_port;
            }
        }
        let mut series: Vec<_> = found.iter().map(|(key, of)| (*key, *of)).collect();
        series.sort_unstable_by_key(|(key, _)| *key);
        let places: FxHashMap<Key, u32> = (0..)
            .zip(&series)
            .map(|(at, (key, _))| (*key, at))
            .collect();
        let mut of_connections = FxHashMap::<ListenAddress, u32>::default();
        let of_sockets = sockets.map(|(socket, holder)| {
            let address = socket.listen_address();
            let at = *places.get(&Key::new(holder?.order, &address))?;
            // Whoever comes first has all connections of an address.
            let first = of_connections.entry(address).or_insert(at);
            *first = at.min(*first);
            Some(at)
        });
        Self {
            of_sockets: of_sockets.collect(),
            series: series
                .iter()
                .map(|(_, (labels, address, is_any_port))| Assigned {
                    labels: Arc::clone(labels),
                    address: *address,
                    set: LabelSet::of(&("listener", labels, address)),
                    is_any_port: *is_any_port,
                })
                .collect(),
            of_connections,
        }
    }

    /// How many series there are.
    #[must_use]
    pub const fn series(&self) -> usize {
        self.series.len()
    }

    /// The series of each socket, in the order in which they were assigned; `None` where its owner
    /// was not known yet.
    pub fn of_sockets(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        self.of_sockets.iter().map(|at| at.map(|at| at as usize))
    }

    /// The series that the connections of an address are shown with.
    #[must_use]
    pub fn of_connections(&self, address: &ListenAddress) -> Option<usize> {
        self.of_connections.get(address).map(|at| *at as usize)
    }

    /// What tells a series from all others. They come in this order.
    #[must_use]
    pub fn key(&self, series: usize) -> ListenerKey {
        let Assigned {
            labels, address, ..
        } = &self.series[series];
        ListenerKey {
            owner: Arc::clone(labels),
            address: Some((address.ip(), address.port())),
        }
    }

    /// The labels of a series, in short.
    #[must_use]
    pub fn set(&self, series: usize) -> LabelSet {
        self.series[series].set
    }

    /// Whether the kernel has chosen the port of all its sockets, so that it is another one each
    /// time.
    #[must_use]
    pub fn is_any_port(&self, series: usize) -> bool {
        self.series[series].is_any_port
    }
}
