//! One look at all tables of the kernel, a run at a time.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tcpstate_common::PortSet;

use super::{
    listeners::HolderWalk,
    reader::{Reader, cpu_time},
};
use crate::{
    collect::{
        Found, Look,
        close_wait::Holdings,
        listeners::ListeningSocket,
        outgoing::{NamedPortHolders, PortHolders},
        owners::CgroupIdentity,
        unanswered::UnansweredSurvey,
    },
    decode::{Owner, Socket},
    host::process::ProcessId,
    kernel::{
        Contents, Details, Faults, HeldProcesses, OwnerWalk, OwnersError, Progress, ReadError,
        TableWalk,
    },
};

/// What a look is to find out besides counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// Which peers do not answer.
    pub(super) unanswered: bool,
    /// Which processes hold sockets in CLOSE_WAIT, and those that listen.
    pub(super) owners: WantsOwners,
}

/// Whether to walk over the descriptors of all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WantsOwners {
    /// Not at all.
    #[default]
    No,
    /// Where a socket is in CLOSE_WAIT.
    OfCloseWait,
    /// In any case.
    Always,
    /// In any case, and sockets in every other state too.
    OfEveryState,
}

impl Wants {
    /// What two who ask want together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            unanswered: self.unanswered || other.unanswered,
            owners: self.owners.max(other.owners),
        }
    }

    /// Whether a look that was to find out this has found out what `other` wants.
    pub(super) fn cover(self, other: Self) -> bool {
        self.and(other) == self
    }
}

/// What a look has found.
pub(super) struct Looked {
    pub(super) found: Found,
    /// The listening sockets, by rising [`ListeningSocket::socket`].
    pub(super) listeners: Vec<ListeningSocket>,
    /// Who holds what, where that was looked for and can be told.
    pub(super) owners: Option<FoundOwners>,
    /// When it began.
    pub(super) began: Instant,
    /// How long it took, and how much of it to find the owners.
    pub(super) took: Duration,
    pub(super) owners_took: Duration,
    /// CPU time that it has used, and how much of it to find the owners.
    pub(super) cpu: Duration,
    pub(super) owners_cpu: Duration,
    /// What did not go well.
    pub(super) faults: Faults,
    /// What the kernel said itself behind it, by inode number: full sockets, and minisockets.
    pub(super) expected_after: FxHashMap<u32, (u64, u64)>,
    /// The namespaces in which far fewer half-open connections were found than the listening sockets
    /// said that they have, before and behind it.
    pub(super) lacks_half_open: FxHashSet<u32>,
}

/// Who holds sockets.
pub(super) struct FoundOwners {
    pub(super) holdings: Holdings,
    pub(super) listeners: HolderWalk,
    /// Who they are.
    pub(super) processes: HeldProcesses,
    /// Who runs what was made in each cgroup that sockets in CLOSE_WAIT name, by its address.
    pub(super) cgroups: FxHashMap<u64, CgroupIdentity>,
    /// Who has the ports that are running out, where sockets in every state were walked over.
    pub(super) port_holders: NamedPortHolders,
}

/// A look that is under way.
pub(super) struct Job {
    wants: Wants,
    began: Instant,
    cpu: Duration,
    owners_cpu: Duration,
    faults: Faults,
    look: Option<Look>,
    /// What `CLOCK_MONOTONIC` said when it began.
    now_ns: u64,
    listeners: Vec<ListeningSocket>,
    tables: VecDeque<TableWalk>,
    stage: Stage,
    found: Option<Found>,
    walk: Option<Walk>,
    owners: Option<FoundOwners>,
    owners_took: Duration,
    expected_after: FxHashMap<u32, (u64, u64)>,
    lacks_half_open: FxHashSet<u32>,
}

/// A walk over the descriptors of all processes that is under way.
struct Walk {
    begun: Instant,
    progress: OwnerWalk,
    holdings: Holdings,
    listeners: HolderWalk,
    /// Descriptors of sockets that several may hold: they are put in order.
    shared: Vec<Owner>,
    /// Sockets that wait for their peers, and who holds them.
    unanswered: FxHashSet<u64>,
    holders: FxHashMap<u64, ProcessId>,
    port_holders: PortHolders,
}

impl Walk {
    fn new(found: &Found, listeners: &[ListeningSocket]) -> Self {
        let unanswered = found.unanswered.as_ref();
        let outgoing = found.namespaces.iter();
        let outgoing = outgoing.map(|namespace| (namespace.inode, &namespace.outgoing));
        Self {
            begun: Instant::now(),
            progress: OwnerWalk::default(),
            holdings: Holdings::default(),
            listeners: HolderWalk::new(listeners),
            shared: Vec::new(),
            unanswered: unanswered
                .map(UnansweredSurvey::sampled)
                .unwrap_or_default(),
            holders: FxHashMap::default(),
            port_holders: PortHolders::of(outgoing),
        }
    }
}

/// Descriptors of shared sockets that are put in order at most.
const MAX_SHARED: usize = 65_536;

/// For how long a look reads tables at most: tens of millions of sockets take, on a busy host.
const MAX_TIME: Duration = Duration::from_mins(2);
/// Half-open connections of a namespace below which nothing is concluded from their number.
const MANY_HALF_OPEN: u64 = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Tables,
    Owners,
}

impl Job {
    pub(super) fn new(wants: Wants) -> Self {
        Self {
            wants,
            began: Instant::now(),
            cpu: Duration::ZERO,
            owners_cpu: Duration::ZERO,
            faults: Faults::default(),
            look: None,
            now_ns: 0,
            listeners: Vec::new(),
            tables: VecDeque::new(),
            stage: Stage::Begin,
            found: None,
            walk: None,
            owners: None,
            owners_took: Duration::ZERO,
            expected_after: FxHashMap::default(),
            lacks_half_open: FxHashSet::default(),
        }
    }

    /// Goes on for one run. Whether everything was looked at.
    pub(super) fn step(&mut self, reader: &mut Reader) -> Result<bool, ReadError> {
        if self.stage == Stage::Tables && self.began.elapsed() > MAX_TIME {
            return Err(ReadError::TooLong);
        }
        let before = cpu_time();
        let is_of_owners = self.stage == Stage::Owners;
        let is_done = match self.stage {
            Stage::Begin => self.begin(reader).map(|()| false),
            Stage::Tables => self.read(reader).map(|()| false),
            Stage::Owners => Ok(self.find_owners(reader)),
        };
        let used = cpu_time().saturating_sub(before);
        self.cpu += used;
        if is_of_owners {
            self.owners_cpu += used;
        }
        is_done
    }

    fn begin(&mut self, reader: &mut Reader) -> Result<(), ReadError> {
        self.began = Instant::now();
        let clock = reader.tables.clock()?;
        self.now_ns = clock.monotonic_ns;
        let namespaces = reader.tables.namespaces()?;
        let mut with_ports = Vec::with_capacity(namespaces.len());
        for namespace in &namespaces {
            let is_used = namespace.in_use + namespace.minisockets > 0;
            let reserved: Option<Box<PortSet>> = if is_used {
                reader.tables.port_set(namespace.reserved_ports)
            } else {
                None
            };
            with_ports.push((namespace.clone(), reserved));
        }
        self.look = Some(Look::new(
            reader.tables.layout(),
            clock,
            with_ports,
            &reader.former_listeners,
            self.wants.unanswered,
        ));
        let details = if self.wants.unanswered {
            Details::WithUnanswered
        } else {
            Details::Usual
        };
        for what in [Contents::Listeners, Contents::Ports, Contents::Sockets] {
            let tables = reader.tables.hash_tables(what, &namespaces)?;
            self.tables.extend(
                tables
                    .into_iter()
                    .map(|table| TableWalk::new(table, details)),
            );
        }
        self.stage = Stage::Tables;
        Ok(())
    }

    fn read(&mut self, reader: &mut Reader) -> Result<(), ReadError> {
        let Some(walk) = self.tables.front_mut() else {
            return self.end_tables(reader);
        };
        let (look, listeners) = (&mut self.look, &mut self.listeners);
        let (owners, now_ns) = (&reader.owners, self.now_ns);
        let (what, buckets) = (walk.table().what, walk.table().size);
        let is_done = walk.step(&mut reader.tables, &mut self.faults, |bucket, object| {
            let Some(look) = look else { return };
            match what {
                Contents::Listeners => listeners.extend(look.listener(object)),
                Contents::Ports => look.port(bucket, buckets, object),
                Contents::Sockets => look.socket(object, |socket| {
                    owners
                        .as_ref()
                        .and_then(|owners| owners.since(socket, now_ns))
                }),
            }
        })?;
        if is_done {
            self.tables.pop_front();
        }
        Ok(())
    }

    fn end_tables(&mut self, reader: &mut Reader) -> Result<(), ReadError> {
        self.found = self.look.take().map(Look::finish);
        if let Some(found) = &self.found {
            reader.former_listeners = Arc::new(found.close_wait.ports_of_servers());
        }
        self.listeners
            .sort_unstable_by_key(|listening| listening.socket);
        let after = reader.tables.namespaces()?;
        let expected = after.iter();
        self.expected_after = expected
            .map(|namespace| (namespace.inode, (namespace.in_use, namespace.minisockets)))
            .collect();
        let found = self.found.iter().flat_map(|found| &found.namespaces);
        let found: Vec<_> = found
            .map(|found| (found.inode, found.counts.half_open_sockets()))
            .collect();
        self.lacks_half_open = lacking(&found, &self.listeners);
        if !self.lacks_half_open.is_empty() {
            // Unless they have gone meanwhile, as with a listener that was closed.
            let still = lacking(&found, &reader.listeners(&after)?);
            self.lacks_half_open.retain(|inode| still.contains(inode));
        }
        self.stage = Stage::Owners;
        Ok(())
    }

    /// One run of the walk over descriptors. Whether that has come to its end, or none is wanted.
    fn find_owners(&mut self, reader: &mut Reader) -> bool {
        let Some(found) = &self.found else {
            return true;
        };
        let Some(owners) = &mut reader.owners else {
            return true;
        };
        let is_wanted = match self.wants.owners {
            WantsOwners::No => false,
            WantsOwners::OfCloseWait => found.close_wait.total().sockets > 0,
            WantsOwners::Always | WantsOwners::OfEveryState => true,
        };
        if !is_wanted {
            return true;
        }
        if self.walk.is_none() {
            // Who accepts is known by the connections that they have, and so is a proxy.
            let every = self.wants.owners == WantsOwners::OfEveryState
                || found.close_wait.has_unaccepted()
                || found.close_wait.has_read_all();
            owners.want_every_state(every);
        }
        let listeners = &self.listeners;
        let walk = self.walk.get_or_insert_with(|| Walk::new(found, listeners));
        let Walk {
            begun,
            progress,
            holdings,
            listeners,
            shared,
            unanswered,
            holders,
            port_holders,
        } = walk;
        let mut add = |owner: &Owner| {
            if let Socket::Other(socket) = owner.socket
                && unanswered.contains(&socket)
            {
                holders.entry(socket).or_insert(owner.process);
            }
            holdings.add(owner, &found.close_wait);
            listeners.add(owner);
            port_holders.add(owner);
        };
        let went = owners.step(progress, |owner| {
            if owner.is_shared && shared.len() < MAX_SHARED {
                shared.push(owner);
            } else {
                add(&owner);
            }
        });
        let ended = match went {
            Ok(Progress::More) => return false,
            Ok(Progress::Done) => {
                shared.sort_by_key(|owner| owner.process);
                shared.iter().for_each(add);
                owners.processes(progress).and_then(|processes| {
                    let cgroups = found.close_wait.cgroups().into_iter();
                    let named = cgroups.map(|cgroup| {
                        let identity = owners.made_in(cgroup, &mut reader.tables)?;
                        Ok((cgroup, identity))
                    });
                    Ok((processes, named.collect::<Result<_, OwnersError>>()?))
                })
            }
            Err(error) => Err(error),
        };
        self.owners_took = begun.elapsed();
        if let Some(walk) = self.walk.take() {
            match ended {
                Ok((processes, cgroups)) => {
                    let survey = self.found.as_mut();
                    if let Some(survey) = survey.and_then(|found| found.unanswered.as_mut()) {
                        survey.name(&walk.holders, &processes);
                    }
                    self.owners = Some(FoundOwners {
                        holdings: walk.holdings,
                        listeners: walk.listeners,
                        port_holders: walk.port_holders.named(&processes),
                        processes,
                        cgroups,
                    });
                }
                Err(error) => tracing::warn!(%error, "cannot tell who holds sockets"),
            }
        }
        true
    }

    /// What was found.
    pub(super) fn finish(self) -> Box<Looked> {
        Box::new(Looked {
            found: self.found.unwrap_or_else(|| Found {
                namespaces: Vec::new(),
                close_wait: crate::collect::close_wait::Survey::new(0, None),
                unanswered: None,
                unknown: 0,
            }),
            listeners: self.listeners,
            owners: self.owners,
            began: self.began,
            took: self.began.elapsed(),
            owners_took: self.owners_took,
            cpu: self.cpu,
            owners_cpu: self.owners_cpu,
            faults: self.faults,
            expected_after: self.expected_after,
            lacks_half_open: self.lacks_half_open,
        })
    }
}

/// The namespaces in which less than half of the half-open connections was found that their listening
/// sockets have. They come and go without an event, so that only a gross difference says anything.
fn lacking(found: &[(u32, u64)], listeners: &[ListeningSocket]) -> FxHashSet<u32> {
    let mut expected = FxHashMap::<u32, u64>::default();
    for listener in listeners {
        *expected.entry(listener.namespace).or_default() += u64::from(listener.half_open);
    }
    let lacks = found.iter().filter(|(inode, found)| {
        let expected = expected.get(inode).copied().unwrap_or(0);
        expected >= MANY_HALF_OPEN && *found < expected / 2
    });
    lacks.map(|(inode, _)| *inode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use tcpstate_common::Family;

    #[test]
    fn a_namespace_that_lacks_most_of_its_half_open_connections_is_named() {
        let listener = |namespace, half_open| ListeningSocket {
            socket: 1,
            namespace,
            family: Family::Ipv4,
            address: SocketAddr::from(([0, 0, 0, 0], 80)),
            is_any_port: false,
            accept_queue: 0,
            accept_limit: 128,
            half_open,
            drops: 0,
            synack_retransmits: 0,
        };
        let listeners = [
            listener(1, 60),
            listener(1, 40),
            listener(2, 30),
            listener(3, 100),
        ];
        let lacks = lacking(&[(1, 49), (2, 0), (3, 50), (4, 0)], &listeners);
        assert_eq!(lacks, FxHashSet::from_iter([1]));
    }
}
