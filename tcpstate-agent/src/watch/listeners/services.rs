//! The connections that belong to listening sockets, counted with the snapshots.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tcpstate_common::{Family, ListenAddress, ServiceCounts, SocketCounts, TcpState};
use tracing::warn;

use super::{
    super::shared::{Shared, lock},
    Listening,
};
use crate::{
    bpf::ServiceTable,
    decode::ListeningSocket,
    model::listeners::{Served, SynQueueLimits},
    netns::Limits,
};

/// How often to look what is listened on where nothing has begun to listen.
const ADDRESSES_EVERY: Duration = Duration::from_secs(1);

/// What the kernel side has counted by what is listened on.
pub(super) struct Services {
    table: ServiceTable,
    addresses: Addresses,
}

/// What is listened on, by namespace: not as fresh as the queues, which take milliseconds to read
/// where there are many, and there may be many namespaces.
#[derive(Default)]
struct Addresses {
    of: FxHashMap<u32, FxHashSet<ListenAddress>>,
    at: Option<Instant>,
    /// How many sockets had begun to listen before.
    begun: u64,
}

impl Services {
    pub(super) fn new(table: ServiceTable) -> Self {
        Self {
            table,
            addresses: Addresses::default(),
        }
    }

    /// Looks what is listened on: where something `is_new`, where sockets have `begun` to listen
    /// since the last look, and where that was long ago.
    fn refresh_addresses(&mut self, listening: &Listening, begun: u64, is_new: bool) {
        let Addresses {
            at, begun: then, ..
        } = self.addresses;
        if !is_new && begun == then && at.is_some_and(|at| at.elapsed() < ADDRESSES_EVERY) {
            return;
        }
        let now = Instant::now();
        let Some(sockets) = listening.read() else {
            return;
        };
        let mut of = FxHashMap::<u32, FxHashSet<_>>::default();
        for socket in sockets {
            let addresses = of.entry(socket.namespace).or_default();
            addresses.insert(socket.listen_address());
        }
        self.addresses = Addresses {
            of,
            at: Some(now),
            begun,
        };
    }

    /// What the pass that `counts` are of has counted.
    fn of_pass(
        &self,
        namespace: u32,
        counts: &SocketCounts,
    ) -> FxHashMap<ListenAddress, Arc<ServiceCounts>> {
        let mut services = FxHashMap::default();
        let addresses = self.addresses.of.get(&namespace);
        for address in addresses.into_iter().flatten().copied() {
            match self.table.service(&address) {
                Ok(Some(found)) if found.pass == counts.pass && found.is_used() => {
                    services.insert(address, Arc::new(found));
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(%error, "cannot read the connections of listening sockets");
                    break;
                }
            }
        }
        services
    }
}

impl Shared {
    /// Takes what a snapshot has found out about the connections of listening sockets. To be
    /// called in the namespace.
    pub(in super::super) fn learn_services(&self, namespace: u32, counts: &SocketCounts) {
        let Some(listening) = &self.listening else {
            return;
        };
        let limits = SynQueueLimits::among(&Limits::read());
        let has_listeners = Family::ALL
            .into_iter()
            .any(|family| counts.by_state[family.slot()][TcpState::Listen as usize] > 0);
        let services = if has_listeners {
            let is_new = !lock(&listening.found).served.contains_key(&namespace);
            let begun = self.begun_to_listen();
            let mut services = lock(&listening.services);
            services.refresh_addresses(listening, begun, is_new);
            services.of_pass(namespace, counts)
        } else {
            FxHashMap::default()
        };
        let mut found = lock(&listening.found);
        found.served.insert(namespace, Served { services, limits });
        found.half_open.insert(namespace, counts.half_open);
    }

    /// Forgets a namespace.
    pub(in super::super) fn forget_services(&self, namespace: u32) {
        if let Some(listening) = &self.listening {
            let mut found = lock(&listening.found);
            found.served.remove(&namespace);
            found.half_open.remove(&namespace);
        }
    }
}

impl Listening {
    /// Takes out of the kernel's table what listens no more.
    pub(super) fn forget_gone(&self) {
        let Some(sockets) = self.read() else {
            return;
        };
        let live: FxHashSet<ListenAddress> = sockets
            .iter()
            .map(ListeningSocket::listen_address)
            .collect();
        let mut services = lock(&self.services);
        if let Err(error) = services.table.keep(|address| live.contains(address)) {
            warn!(%error, "cannot forget addresses that nothing listens on");
        }
    }
}
