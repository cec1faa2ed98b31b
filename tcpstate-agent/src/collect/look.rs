//! Putting together what a pass over the kernel's tables meets.
//!
//! The namespaces come first, then what listens and which ports are bound, then the sockets: so it is
//! known of each socket, as it comes, which namespace it belongs to, whether something listens on its
//! port, and whether `connect()` has chosen the port.

use std::{net::SocketAddr, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};
use tcpstate_common::{
    ClockSample, Family, HalfOpenCounts, ListenAddress, PortSet, STATE_SLOTS, ServiceCounts,
    TcpState,
};

use super::{
    close_wait::{Survey, TickRate},
    listeners::{ListeningSocket, listener_of},
    outgoing::{Destination, DestinationTable, NamespaceOutgoing, PortRules},
    unanswered::UnansweredSurvey,
};
use crate::{
    decode::{KernelNamespace, KernelSocket, Limits, Socket, object::Object},
    kernel::layout::Layout,
};

/// The sockets of one network namespace, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCounts {
    /// By family and state. `TimeWait` and `NewSynRecv` are minisockets and request sockets.
    pub by_state: [[u64; STATE_SLOTS]; 2],
    /// By family: timewait minisockets that stand for `FIN_WAIT2`.
    pub fin_wait2_mini: [u64; 2],
    /// Half-open connections.
    pub half_open: HalfOpenCounts,
}

impl SocketCounts {
    /// Full sockets that are in the kernel's tables: what its own `inuse` counts.
    #[must_use]
    pub fn full(&self) -> u64 {
        let of_families = self.by_state.iter();
        of_families
            .flat_map(|by_state| TcpState::FOUND.map(|state| (state, by_state[state.slot()])))
            .filter(|(state, _)| !matches!(state, TcpState::TimeWait | TcpState::NewSynRecv))
            .map(|(_, count)| count)
            .sum()
    }

    /// Half-open connections of both families.
    #[must_use]
    pub fn half_open_sockets(&self) -> u64 {
        let half_open = |by_state: &[u64; STATE_SLOTS]| by_state[TcpState::NewSynRecv.slot()];
        self.by_state.iter().map(half_open).sum()
    }

    /// Timewait minisockets, whatever they stand for.
    #[must_use]
    pub fn minisockets(&self) -> u64 {
        let time_wait = self
            .by_state
            .map(|by_state| by_state[TcpState::TimeWait.slot()]);
        time_wait.into_iter().chain(self.fin_wait2_mini).sum()
    }
}

/// A network namespace as a pass has found it.
#[derive(Debug)]
pub struct NamespaceFound {
    /// Inode number.
    pub inode: u32,
    /// What no other namespace ever has, where the kernel tells.
    pub cookie: Option<u64>,
    /// Its sockets.
    pub counts: SocketCounts,
    /// Its connections by what they came to.
    pub services: FxHashMap<ListenAddress, ServiceCounts>,
    /// Where its outgoing connections go.
    pub outgoing: NamespaceOutgoing,
    /// What limits handshakes in it.
    pub limits: Limits,
    /// What the kernel said itself before the pass: full sockets, and minisockets.
    pub expected: (u64, u64),
}

/// What a pass has found.
#[derive(Debug)]
pub struct Found {
    /// The namespaces, in the kernel's order.
    pub namespaces: Vec<NamespaceFound>,
    /// Sockets in CLOSE_WAIT.
    pub close_wait: Survey,
    /// Sockets whose peers do not answer, where that was asked for and can be told.
    pub unanswered: Option<UnansweredSurvey>,
    /// Sockets of a family or in a state that is none of TCP's, or of a namespace that is new.
    pub unknown: u64,
}

/// A pass that is being put together.
pub struct Look {
    layout: Arc<Layout>,
    clock: ClockSample,
    by_net: FxHashMap<u64, usize>,
    /// The last namespace that was looked up. Sockets of one lie close to each other.
    last: (u64, usize),
    namespaces: Vec<NamespaceLook>,
    close_wait: Survey,
    former: Arc<FxHashSet<(u32, u16)>>,
    unanswered: Option<UnansweredSurvey>,
    unknown: u64,
}

struct NamespaceLook {
    inode: u32,
    cookie: Option<u64>,
    counts: SocketCounts,
    listeners: FxHashMap<u16, PortListeners>,
    services: Vec<(ListenAddress, ServiceCounts)>,
    ports: Ports,
    destinations: DestinationTable,
    limits: Limits,
    tw_reuse: u64,
    hash_mix: u32,
    expected: (u64, u64),
}

/// What listens on one port, by where its connections are counted.
#[derive(Default)]
struct PortListeners {
    /// On any address, by family.
    any: [Option<usize>; 2],
    /// On one address.
    one: FxHashMap<(Family, [u8; 16]), usize>,
}

/// The local ports of a namespace.
struct Ports {
    /// What `connect()` may choose.
    range: (u16, u16),
    reserved: Option<Box<PortSet>>,
    /// Those within it that are bound: `connect()` passes over them, wherever it is to go to.
    bound: FxHashSet<u16>,
}

impl Ports {
    fn can_be_chosen(&self, port: u16) -> bool {
        let (first, last) = self.range;
        (first..=last).contains(&port)
            && self
                .reserved
                .as_ref()
                .is_none_or(|ports| ports[usize::from(port >> 6)] >> (port & 63) & 1 == 0)
    }

    /// Ports that there are for one destination.
    fn count(&self) -> u32 {
        let (first, last) = self.range;
        let free = (first..=last).filter(|port| self.can_be_chosen(*port));
        let free = free.filter(|port| !self.bound.contains(port)).count();
        u32::try_from(free).unwrap_or(u32::MAX)
    }
}

impl Look {
    /// Begins with the namespaces, each with the ports in it that `connect()` may not choose. On
    /// `former` something listened before, by inode number and port.
    #[must_use]
    pub fn new(
        layout: &Arc<Layout>,
        clock: ClockSample,
        namespaces: Vec<(KernelNamespace, Option<Box<PortSet>>)>,
        former: &Arc<FxHashSet<(u32, u16)>>,
        wants_unanswered: bool,
    ) -> Self {
        let tick_rate = TickRate::of(clock);
        let by_net = namespaces.iter().enumerate();
        let by_net = by_net.map(|(place, (namespace, _))| (namespace.net, place));
        let mut close_wait = Survey::new(clock.monotonic_ns, tick_rate);
        for (namespace, _) in &namespaces {
            close_wait.begin(namespace.inode);
        }
        Self {
            layout: Arc::clone(layout),
            clock,
            by_net: by_net.collect(),
            last: (0, usize::MAX),
            namespaces: namespaces.into_iter().map(NamespaceLook::new).collect(),
            close_wait,
            former: Arc::clone(former),
            unanswered: tick_rate
                .filter(|_| wants_unanswered)
                .map(UnansweredSurvey::new),
            unknown: 0,
        }
    }

    /// A listening socket. Gives what there is to say of it.
    pub fn listener(&mut self, object: &Object<'_>) -> Option<ListeningSocket> {
        let socket = KernelSocket::of(object, &self.layout.common)?;
        let place = self.place(socket.net)?;
        let namespace = &mut self.namespaces[place];
        let listening = listener_of(&socket, object, &self.layout, namespace.inode)?;
        let defers = object.number8(self.layout.sock.defer_accept) != 0;
        namespace.counts.by_state[socket.family.slot()][TcpState::Listen.slot()] += 1;
        namespace.listen(listening.listen_address(), defers);
        self.close_wait
            .add(&Socket::Listener(crate::decode::Listener {
                socket: listening.socket,
                namespace: listening.namespace,
                port: listening.address.port(),
            }));
        Some(listening)
    }

    /// A local port that is in use, found in the bucket with this number of so many.
    pub fn port(&mut self, bucket: u32, buckets: u32, object: &Object<'_>) {
        let bind = &self.layout.bind;
        let port = object.number16(bind.port);
        let is_bound = object.number8(bind.reuse).cast_signed() >= 0;
        let Some(place) = self.place(object.number_or_zero(bind.net)) else {
            return;
        };
        let namespace = &mut self.namespaces[place];
        let hash = u32::from(port).wrapping_add(namespace.hash_mix);
        // One that is freed belongs to no bucket.
        if !is_bound || hash & buckets.wrapping_sub(1) != bucket {
            return;
        }
        if namespace.ports.can_be_chosen(port) {
            namespace.ports.bound.insert(port);
            if self.former.contains(&(namespace.inode, port)) {
                self.close_wait.listened_before(namespace.inode, port);
            }
        } else {
            self.close_wait.bound(namespace.inode, port);
        }
    }

    /// Any other socket. `since` knows when one came into CLOSE_WAIT.
    pub fn socket(&mut self, object: &Object<'_>, since: impl FnOnce(u64) -> Option<u64>) {
        let Some(socket) = KernelSocket::of(object, &self.layout.common) else {
            self.unknown += 1;
            return;
        };
        let Some(place) = self.place(socket.net) else {
            self.unknown += 1;
            return;
        };
        let (layout, now) = (&self.layout, jiffies(self.clock));
        let namespace = &mut self.namespaces[place];
        let slot = socket.family.slot();
        let mut state = socket.state;
        let mut has_timestamps = false;
        match state {
            TcpState::TimeWait => {
                let timewait = &layout.timewait;
                has_timestamps = object.number_or_zero(timewait.recent) != 0;
                if object.number8(timewait.substate) == TcpState::FinWait2 as u8 {
                    namespace.counts.fin_wait2_mini[slot] += 1;
                    state = TcpState::FinWait2;
                } else {
                    namespace.counts.by_state[slot][state.slot()] += 1;
                }
            }
            TcpState::NewSynRecv => {
                namespace.counts.by_state[slot][state.slot()] += 1;
                let half_open = socket.half_open(object, layout, self.clock.monotonic_ns);
                namespace.counts.half_open.add(half_open);
                if let Some(service) = namespace.service_of(&socket, object, layout) {
                    service.add_half_open(half_open);
                }
                return;
            }
            // On its way in or out.
            TcpState::Listen | TcpState::Close => {}
            _ => namespace.counts.by_state[slot][state.slot()] += 1,
        }
        if let Some(service) = namespace.service_of(&socket, object, layout) {
            service.add(state);
        } else {
            namespace.go(&socket, object, layout, state, has_timestamps);
        }
        let inode = namespace.inode;
        if state == TcpState::CloseWait {
            let is_bound = namespace.ports.bound.contains(&socket.local_port);
            let socket = socket.close_wait(object, layout, inode, since(socket.socket), now);
            if is_bound {
                self.close_wait.add_bound(&socket);
            } else {
                self.close_wait.add(&Socket::CloseWait(socket));
            }
        }
        if let Some(unanswered) = &mut self.unanswered
            // Not of minisockets.
            && matches!(
                socket.state,
                TcpState::SynSent
                    | TcpState::Established
                    | TcpState::FinWait1
                    | TcpState::FinWait2
                    | TcpState::Closing
                    | TcpState::LastAck
            )
            && let Some(found) =
                socket.unanswered(object, layout, inode, (now, self.clock.monotonic_ns))
        {
            unanswered.add(&found);
        }
    }

    fn place(&mut self, net: u64) -> Option<usize> {
        let (last, place) = self.last;
        if last == net {
            return Some(place);
        }
        let place = *self.by_net.get(&net)?;
        self.last = (net, place);
        Some(place)
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Found {
        self.close_wait.finish();
        Found {
            namespaces: self
                .namespaces
                .into_iter()
                .map(NamespaceLook::finish)
                .collect(),
            close_wait: self.close_wait,
            unanswered: self.unanswered,
            unknown: self.unknown,
        }
    }
}

impl NamespaceLook {
    fn new((namespace, reserved): (KernelNamespace, Option<Box<PortSet>>)) -> Self {
        Self {
            inode: namespace.inode,
            cookie: namespace.cookie,
            counts: SocketCounts::default(),
            listeners: FxHashMap::default(),
            services: Vec::new(),
            ports: Ports {
                range: namespace.port_range,
                // Of most it is empty.
                reserved: reserved.filter(|ports| ports.iter().any(|word| *word != 0)),
                bound: FxHashSet::default(),
            },
            destinations: DestinationTable::default(),
            limits: namespace.limits,
            tw_reuse: namespace.tw_reuse,
            hash_mix: namespace.hash_mix,
            expected: (namespace.in_use, namespace.minisockets),
        }
    }

    /// Takes note of what listens. It may be one of several.
    fn listen(&mut self, address: ListenAddress, defers: bool) {
        let Some(family) = Family::from_kernel(address.family) else {
            return;
        };
        let port = self.listeners.entry(address.port).or_default();
        let place = if address.is_any() {
            &mut port.any[family.slot()]
        } else {
            let entry = port.one.entry((family, address.address));
            let next = self.services.len();
            let place = *entry.or_insert(next);
            if place == next {
                self.services.push((address, ServiceCounts::default()));
            }
            self.services[place].1.defers |= u32::from(defers);
            return;
        };
        let next = self.services.len();
        let place = *place.get_or_insert(next);
        if place == next {
            self.services.push((address, ServiceCounts::default()));
        }
        self.services[place].1.defers |= u32::from(defers);
    }

    /// What a connection belongs to: what listens on its local port, on its local address, or else
    /// on any.
    fn service_of(
        &mut self,
        socket: &KernelSocket,
        object: &Object<'_>,
        layout: &Layout,
    ) -> Option<&mut ServiceCounts> {
        let port = self.listeners.get(&socket.local_port)?;
        let of_one = (!port.one.is_empty())
            .then(|| (socket.family, socket.local_address(object, &layout.common)))
            .and_then(|address| port.one.get(&address).copied());
        let place = of_one.or(port.any[socket.family.slot()])?;
        self.services.get_mut(place).map(|(_, counts)| counts)
    }

    /// Counts one on whose local port nothing listens.
    fn go(
        &mut self,
        socket: &KernelSocket,
        object: &Object<'_>,
        layout: &Layout,
        state: TcpState,
        has_timestamps: bool,
    ) {
        if state == TcpState::Close {
            return;
        }
        let time_wait = state == TcpState::TimeWait;
        let holds = self.ports.can_be_chosen(socket.local_port)
            && !self.ports.bound.contains(&socket.local_port);
        if !holds && !time_wait {
            return;
        }
        let common = &layout.common;
        let canonical = |address| crate::decode::address(socket.family, address).to_canonical();
        let destination = Destination {
            local: canonical(socket.local_address(object, common)),
            remote: SocketAddr::new(
                canonical(socket.remote_address(object, common)),
                socket.remote_port,
            ),
        };
        self.destinations
            .add(destination, holds, time_wait, has_timestamps);
    }

    fn finish(self) -> NamespaceFound {
        let ports = self.ports.count();
        let used = self.services.into_iter();
        NamespaceFound {
            inode: self.inode,
            cookie: self.cookie,
            counts: self.counts,
            services: used.filter(|(_, service)| service.is_used()).collect(),
            outgoing: NamespaceOutgoing::new(
                self.destinations,
                PortRules {
                    ports,
                    tw_reuse: self.tw_reuse,
                    max_tw_buckets: self.limits.max_tw_buckets,
                },
            ),
            limits: self.limits,
            expected: self.expected,
        }
    }
}

/// The lower half of `jiffies`, which is what sockets store.
#[expect(
    clippy::cast_possible_truncation,
    reason = "it is the lower half that counts"
)]
const fn jiffies(clock: ClockSample) -> u32 {
    clock.jiffies as u32
}
