//! The complete count: every socket in CLOSE_WAIT, by what it serves and why it is there.

use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::{Cause, Tally, TickRate, Times};
use crate::decode::{CloseWaitSocket, Listener, MptcpSocket, Socket};

/// Services that are told apart. Those beyond are summed as one of port 0 for each namespace and
/// role, so that a process that connects to every port there is does not fill the memory.
pub(super) const MAX_SERVICES: usize = 4096;

/// The first port that anybody may bind.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Sockets that wait for another one on their local port. Those beyond are taken for clients'.
const MAX_UNDECIDED: usize = 4096;

/// On which side of a connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Something listens on its local port, or has.
    Server,
    /// Nothing does.
    Client,
}

impl Role {
    /// The name in metrics and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Service {
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// Which side this is.
    pub role: Role,
    /// The port that is listened on, here or there. 0: one of many.
    pub port: u16,
}

/// What a pass has found in the network namespaces.
#[derive(Debug)]
pub struct Survey {
    now_ns: u64,
    tick_rate: Option<TickRate>,
    namespaces: FxHashSet<u32>,
    listening: FxHashSet<(u32, u16)>,
    /// Local ports that are a server's by their numbers, or that one was seen to listen on, or that
    /// several connections came to.
    bound: FxHashSet<(u32, u16)>,
    /// The first socket on a local port that a server may have bound, or a client.
    undecided: FxHashMap<(u32, u16), CloseWaitSocket>,
    /// Ports that something listened on before, and that are still bound.
    former: FxHashSet<(u32, u16)>,
    found: FxHashMap<(Service, Cause), Tally>,
    /// The cgroup that all of those were made in; 0 where they were not made in one.
    cgroups: FxHashMap<(Service, Cause), u64>,
    services: FxHashSet<Service>,
}

impl Survey {
    /// An empty survey, made when `CLOCK_MONOTONIC` says `now_ns`.
    #[must_use]
    pub fn new(now_ns: u64, tick_rate: Option<TickRate>) -> Self {
        Self {
            now_ns,
            tick_rate,
            namespaces: FxHashSet::default(),
            listening: FxHashSet::default(),
            bound: FxHashSet::default(),
            undecided: FxHashMap::default(),
            former: FxHashSet::default(),
            found: FxHashMap::default(),
            cgroups: FxHashMap::default(),
            services: FxHashSet::default(),
        }
    }

    /// Begins with a namespace.
    pub fn begin(&mut self, namespace: u32) {
        self.namespaces.insert(namespace);
    }

    /// Adds what a pass has met. A namespace's listeners must come before its connections.
    pub fn add(&mut self, socket: &Socket) {
        match socket {
            Socket::Listener(Listener {
                namespace, port, ..
            }) => {
                self.listening.insert((*namespace, *port));
            }
            Socket::CloseWait(socket) => self.count(socket),
            Socket::Mptcp(_) | Socket::Other(_) => {}
        }
    }

    /// Adds a socket in CLOSE_WAIT on a local port that a process has bound and that `connect()` may
    /// choose too. Who binds one to connect from it has one connection there; on a port that several
    /// have come to, a server has listened.
    pub fn add_bound(&mut self, socket: &CloseWaitSocket) {
        let local = (socket.namespace, socket.local_port);
        let is_decided = self.listening.contains(&local) || self.bound.contains(&local);
        if !is_decided && socket.remote.port() >= FIRST_UNPRIVILEGED {
            if let Some(first) = self.undecided.remove(&local) {
                self.bound.insert(local);
                self.count(&first);
            } else if self.undecided.len() < MAX_UNDECIDED {
                self.undecided.insert(local, *socket);
                return;
            }
        }
        self.count(socket);
    }

    /// Takes those for clients' of which there is one on its port.
    pub fn finish(&mut self) {
        for (_, socket) in std::mem::take(&mut self.undecided) {
            self.count(&socket);
        }
    }

    fn count(&mut self, socket: &CloseWaitSocket) {
        let service = self.admit(self.whose(socket));
        let times = self.times(socket);
        let key = (service, Cause::of(socket));
        self.found.entry(key).or_default().add(socket, &times);
        let cgroup = self.cgroups.entry(key).or_insert(socket.cgroup);
        if *cgroup != socket.cgroup {
            *cgroup = 0;
        }
    }

    /// What has happened to a socket, and how long before the survey.
    #[must_use]
    pub fn times(&self, socket: &CloseWaitSocket) -> Times {
        Times::of(socket, self.now_ns, self.tick_rate)
    }

    /// Whether something listens there, as far as services are told apart.
    #[must_use]
    pub fn is_listened(&self, service: Service) -> bool {
        service.port == 0 || self.listening.contains(&(service.namespace, service.port))
    }

    /// A local port that a process has bound, and that `connect()` would not have chosen. Sockets on
    /// it belong to a server, which may have stopped listening.
    pub fn bound(&mut self, namespace: u32, port: u16) {
        self.bound.insert((namespace, port));
    }

    /// The same of a port that something has been seen to listen on. It stays bound while there are
    /// connections.
    pub fn listened_before(&mut self, namespace: u32, port: u16) {
        self.bound(namespace, port);
        self.former.insert((namespace, port));
    }

    /// The ports that something listens on, or has listened on as far as known.
    #[must_use]
    pub fn ports_of_servers(&self) -> FxHashSet<(u32, u16)> {
        self.listening.union(&self.former).copied().collect()
    }

    /// What a connection is for, as far as the survey tells services apart; `None` in a namespace
    /// that is not in it.
    #[must_use]
    pub fn service(&self, socket: &CloseWaitSocket) -> Option<Service> {
        self.namespaces
            .contains(&socket.namespace)
            .then(|| self.known(self.whose(socket)))
    }

    /// What those are for that `listener` has in its queue; `None` in a namespace that is not in
    /// the survey.
    #[must_use]
    pub fn listened_on(&self, listener: &Listener) -> Option<Service> {
        self.namespaces.contains(&listener.namespace).then(|| {
            self.known(Service {
                namespace: listener.namespace,
                role: Role::Server,
                port: listener.port,
            })
        })
    }

    /// Whether something listens on a port of a namespace.
    #[must_use]
    pub fn listens(&self, namespace: u32, port: u16) -> bool {
        self.listening.contains(&(namespace, port))
    }

    /// Whether any server has read all that came: it may be a proxy that waits for its other side.
    #[must_use]
    pub fn has_read_all(&self) -> bool {
        self.found
            .keys()
            .any(|(service, cause)| service.role == Role::Server && *cause == Cause::EofRead)
    }

    /// Whether anything waits on a port to be accepted, and its peer has closed.
    #[must_use]
    pub fn is_waited_for(&self, namespace: u32, port: u16) -> bool {
        let service = Service {
            namespace,
            role: Role::Server,
            port,
        };
        self.found.contains_key(&(service, Cause::Unaccepted))
    }

    /// Whether that is so anywhere.
    #[must_use]
    pub fn has_unaccepted(&self) -> bool {
        self.found
            .keys()
            .any(|(_, cause)| *cause == Cause::Unaccepted)
    }

    /// What was found, by service and cause.
    #[must_use]
    pub const fn found(&self) -> &FxHashMap<(Service, Cause), Tally> {
        &self.found
    }

    /// The address of the cgroup that the sockets of a service were made in, or the listeners that
    /// they came to. `None` where it is not known, or where there are several: which sockets nobody
    /// holds, no count tells.
    #[must_use]
    pub fn cgroup(&self, service: Service, cause: Cause) -> Option<u64> {
        let cgroup = self.cgroups.get(&(service, cause)).copied();
        cgroup.filter(|&cgroup| cgroup != 0)
    }

    /// Every cgroup that [`Survey::cgroup`] names, once.
    #[must_use]
    pub fn cgroups(&self) -> FxHashSet<u64> {
        let cgroups = self.cgroups.values().copied();
        cgroups.filter(|&cgroup| cgroup != 0).collect()
    }

    /// All that was found.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in self.found.values() {
            total.merge(tally);
        }
        total
    }

    /// What an MPTCP connection is for that its peer has closed, and how long ago that was at least.
    #[must_use]
    pub fn mptcp(&self, socket: &MptcpSocket) -> (Service, Duration) {
        let age = self
            .tick_rate
            .map(|rate| rate.duration(socket.last_ack_jiffies));
        let local = (socket.namespace, socket.local_port);
        (
            self.side(local, socket.remote.port()),
            age.unwrap_or_default(),
        )
    }

    fn whose(&self, socket: &CloseWaitSocket) -> Service {
        let local = (socket.namespace, socket.local_port);
        self.side(local, socket.remote.port())
    }

    fn side(&self, local: (u32, u16), remote_port: u16) -> Service {
        let (namespace, port) = local;
        // One who binds a port of its own to connect does so to a well-known one.
        let is_left_by_a_server =
            || self.bound.contains(&local) && remote_port >= FIRST_UNPRIVILEGED;
        if self.listening.contains(&local) || is_left_by_a_server() {
            Service {
                namespace,
                role: Role::Server,
                port,
            }
        } else {
            Service {
                namespace,
                role: Role::Client,
                port: remote_port,
            }
        }
    }

    fn admit(&mut self, service: Service) -> Service {
        if self.services.len() < MAX_SERVICES {
            self.services.insert(service);
        }
        self.known(service)
    }

    fn known(&self, service: Service) -> Service {
        if self.services.contains(&service) {
            service
        } else {
            Service { port: 0, ..service }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(namespace: u32, local_port: u16, remote_port: u16) -> Socket {
        Socket::CloseWait(connection(namespace, local_port, remote_port))
    }

    fn connection(namespace: u32, local_port: u16, remote_port: u16) -> CloseWaitSocket {
        CloseWaitSocket {
            socket: 1,
            namespace,
            since_ns: None,
            last_ack_jiffies: 0,
            last_data_jiffies: None,
            last_sent_jiffies: None,
            unread: 1,
            unsent: 0,
            is_accepted: true,
            local_port,
            remote: ([10, 0, 0, 1], remote_port).into(),
            cgroup: 0,
        }
    }

    fn listener(namespace: u32, port: u16) -> Socket {
        Socket::Listener(Listener {
            socket: 2,
            namespace,
            port,
        })
    }

    fn counts(survey: &Survey) -> Vec<(Role, u16, u64)> {
        let mut counts: Vec<_> = survey
            .found()
            .iter()
            .map(|((service, _), tally)| (service.role, service.port, tally.sockets))
            .collect();
        counts.sort_unstable();
        counts
    }

    #[test]
    fn a_pool_of_client_connections_is_one_service() {
        let mut survey = Survey::new(0, None);
        survey.begin(1);
        survey.add(&listener(1, 80));
        for port in 40_000..40_100 {
            survey.add(&socket(1, port, 5432));
            survey.add(&socket(1, 80, port));
        }
        assert_eq!(
            counts(&survey),
            [(Role::Server, 80, 100), (Role::Client, 5432, 100)]
        );
    }

    #[test]
    fn sockets_have_a_cgroup_as_long_as_all_have_the_same() {
        let mut survey = Survey::new(0, None);
        survey.begin(1);
        let add = |survey: &mut Survey, port, cgroup| {
            let socket = CloseWaitSocket {
                cgroup,
                ..connection(1, 1, port)
            };
            survey.add(&Socket::CloseWait(socket));
            survey.cgroup(survey.service(&socket).unwrap(), Cause::of(&socket))
        };
        assert_eq!(add(&mut survey, 80, 7), Some(7));
        assert_eq!(add(&mut survey, 80, 7), Some(7));
        assert_eq!(add(&mut survey, 443, 8), Some(8));
        assert_eq!(survey.cgroups().len(), 2);
        assert_eq!(add(&mut survey, 80, 9), None);
        assert_eq!(add(&mut survey, 80, 7), None);
        assert_eq!(add(&mut survey, 22, 0), None);
        assert_eq!(survey.cgroups(), [8].into_iter().collect());
    }

    #[test]
    fn a_listener_counts_in_its_own_namespace_only() {
        let mut survey = Survey::new(0, None);
        survey.begin(1);
        survey.begin(2);
        survey.add(&listener(2, 80));
        survey.add(&socket(1, 80, 9000));
        assert_eq!(counts(&survey), [(Role::Client, 9000, 1)]);
    }

    #[test]
    fn a_server_that_has_stopped_listening_is_one_service() {
        let mut survey = Survey::new(0, None);
        survey.begin(1);
        survey.begin(2);
        survey.bound(1, 80);
        survey.bound(1, 700);
        for port in 40_000..40_030 {
            survey.add(&socket(1, 80, port));
        }
        // A mount of NFS, and a port that somebody else has in another namespace.
        survey.add(&socket(1, 700, 111));
        survey.add(&socket(2, 80, 9_000));
        assert_eq!(
            counts(&survey),
            [
                (Role::Server, 80, 30),
                (Role::Client, 111, 1),
                (Role::Client, 9_000, 1)
            ]
        );
        let service = survey.service(&connection(1, 80, 40_000)).unwrap();
        assert!(!survey.is_listened(service));
    }

    #[test]
    fn where_several_came_to_one_local_port_a_server_has_listened() {
        let mut survey = Survey::new(0, None);
        survey.begin(1);
        for port in 50_000..50_030 {
            // All to one server, and each from one that a client has bound to connect from it.
            survey.add_bound(&connection(1, 40_000, port));
            survey.add_bound(&connection(1, port, 8_080));
        }
        survey.finish();
        assert_eq!(
            counts(&survey),
            [(Role::Server, 40_000, 30), (Role::Client, 8_080, 30)]
        );
        let service = survey.service(&connection(1, 40_000, 50_000)).unwrap();
        assert!(!survey.is_listened(service));
    }

    #[test]
    fn who_was_seen_to_listen_is_a_server_with_one_connection_too() {
        let mut survey = Survey::new(0, None);
        survey.begin(1);
        survey.add(&listener(1, 80));
        survey.listened_before(1, 40_000);
        survey.add_bound(&connection(1, 40_000, 50_000));
        survey.finish();
        assert_eq!(counts(&survey), [(Role::Server, 40_000, 1)]);
        let ports = survey.ports_of_servers();
        assert_eq!(ports, [(1, 80), (1, 40_000)].into_iter().collect());
    }

    #[test]
    fn sockets_that_wait_for_another_one_are_not_lost_beyond_the_limit() {
        let mut survey = Survey::new(0, None);
        survey.begin(1);
        for port in 1_024..11_024 {
            survey.add_bound(&connection(1, port, 8_080));
        }
        survey.finish();
        assert_eq!(counts(&survey), [(Role::Client, 8_080, 10_000)]);
    }

    #[test]
    fn services_beyond_the_limit_are_summed() {
        let mut survey = Survey::new(0, None);
        survey.begin(1);
        for port in 1..=10_000 {
            survey.add(&socket(1, 1, port));
        }
        assert_eq!(survey.found().len(), MAX_SERVICES + 1);
        assert_eq!(survey.total().sockets, 10_000);
        let other = survey.service(&connection(1, 1, 10_000)).unwrap();
        assert_eq!(other.port, 0);
    }
}
