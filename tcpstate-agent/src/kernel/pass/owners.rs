//! Who holds which socket: a walk over all processes and their descriptors, whatever PID namespace
//! the agent is in.

use std::{
    collections::hash_map::Entry,
    io,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::net::UnixDatagram,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{Ebpf, programs::ProgramError};
use rustc_hash::FxHashMap;
use rustix::net::{AddressFamily, SocketType};
use tcpstate_common::{
    map,
    pass::{Owners, OwnersRequest, TaskRecord},
    program,
};
use thiserror::Error;

use super::{
    cgroup::{CgroupReader, ReadError},
    chain::{ChainReader, QueueOf, Waiting},
    layout::OwnerLayout,
    mapped::Mapped,
    program::Program,
    stopwatch::Stopwatch,
    tables::KernelTables,
    trail::{Reached, Trail},
};
use crate::{
    collect::owners::CgroupIdentity,
    decode::{self, DecodeError, HeldLayout, HeldTimes, Owner},
    host::process::{Process, ProcessId},
};

/// For how long the kernel side walks in one run. It is not preempted meanwhile, and finishes what
/// it is at: a group of descriptors, some microseconds.
pub(super) const RUN_NS: u64 = 40_000;

/// How often a walk begins anew at most because all that it could go on from has ended.
/// The first run can end among processes that live for a moment, and nothing is lost then.
const MAX_RESTARTS: u32 = 64;
/// Runs of a walk at most: more than a hundred million descriptors take.
const MAX_RUNS: u64 = 1_000_000;
/// The same as time, which a walk takes even where others use the CPU.
const MAX_TIME: Duration = Duration::from_mins(2);

/// Processes that a walk remembers at most. Of others it is not said who they are.
const MAX_PROCESSES: usize = 65_536;

/// Walks over processes.
pub struct OwnersReader {
    program: Program,
    element: Mapped<Owners>,
    chains: ChainReader,
    cgroups: CgroupReader,
    stopwatch: Option<Stopwatch>,
    request: OwnersRequest,
    held: HeldLayout,
}

/// Why a walk cannot be made.
#[derive(Debug, Error)]
pub enum OwnersError {
    /// A program was refused, or a map cannot be read.
    #[error("cannot load the programs: {0}")]
    Load(#[from] ReadError),
    /// A run failed.
    #[error("cannot read the kernel's list of processes: {0}")]
    Run(#[from] ProgramError),
    /// What a socket looks like could not be learned.
    #[error("cannot tell what an open socket looks like: {0}")]
    Socket(#[from] io::Error),
    /// All that the walk could go on from has ended, again and again, or it takes too long.
    #[error("processes come and go faster than they can be walked over")]
    Endless,
}

/// A walk in progress. What it has met is right whether or not the walk comes to its end.
#[derive(Debug, Default)]
pub struct OwnerWalk {
    trail: Trail,
    reached: Reached,
    processes: FxHashMap<ProcessId, TaskRecord>,
    queues: FxHashMap<u64, Waiting>,
    account: WalkAccount,
    begun: Option<Instant>,
}

/// Who the processes are that a walk has met.
pub type HeldProcesses = FxHashMap<ProcessId, Arc<Process>>;

/// How a walk went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkAccount {
    /// Runs of the kernel side.
    pub runs: u64,
    /// The longest of them.
    pub longest: Duration,
    /// How often the last process was gone and an earlier one was gone back to.
    pub gone_back: u64,
    /// How often nothing was left to go back to.
    pub restarts: u32,
    /// Descriptors that became something else while they were looked at.
    pub changed: u64,
    /// Processes whose table was torn down again and again while it was looked at.
    pub tables_left: u64,
    /// Descriptors whose bytes are no socket.
    pub malformed: u64,
    /// Processes that were looked at.
    pub processes: u64,
}

/// Whether a walk has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more.
    More,
    /// All processes were met.
    Done,
}

impl OwnersReader {
    /// Takes its programs from the object.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        layout: &OwnerLayout,
        every: bool,
        stopwatch: Option<Stopwatch>,
    ) -> Result<Self, OwnersError> {
        let mut reader = Self {
            program: Program::load(ebpf, program::OWNERS).map_err(ReadError::from)?,
            element: Mapped::take(ebpf, map::OWNERS).map_err(ReadError::from)?,
            chains: ChainReader::take(ebpf, layout.chain)?,
            cgroups: CgroupReader::take(ebpf, layout.cgroup)?,
            stopwatch,
            request: OwnersRequest {
                run_ns: RUN_NS,
                offsets: layout.owners,
                wanted: layout.held.wanted(every),
                ..OwnersRequest::default()
            },
            held: layout.held.clone(),
        };
        reader.learn_sockets()?;
        Ok(reader)
    }

    /// Instructions that the verifier went through, of all programs together.
    #[must_use]
    pub const fn verified(&self) -> u32 {
        self.program.verified() + self.chains.verified() + self.cgroups.verified()
    }

    /// Whether the next walk is to meet sockets that have nothing to do with CLOSE_WAIT too.
    pub fn want_every_state(&mut self, every: bool) {
        self.request.wanted = self.held.wanted(every);
    }

    /// `CLOCK_MONOTONIC` nanoseconds at which the socket at an address came into CLOSE_WAIT, where
    /// that was seen.
    #[must_use]
    pub fn since(&self, socket: u64, now_ns: u64) -> Option<u64> {
        self.stopwatch.as_ref()?.since(socket, now_ns)
    }

    /// Who runs what was made in the cgroup at an address, as a socket names it. Empty where that is
    /// gone with the socket.
    pub fn made_in(
        &mut self,
        cgroup: u64,
        tables: &mut KernelTables,
    ) -> Result<CgroupIdentity, OwnersError> {
        let Some((node, id)) = tables.cgroup_node(cgroup) else {
            return Ok(CgroupIdentity::default());
        };
        Ok(self.cgroups.of_node(node, id)?)
    }

    /// Finds out what a file looks like that is a socket.
    fn learn_sockets(&mut self) -> Result<(), OwnersError> {
        let socket = UnixDatagram::unbound()?;
        let tcp = [AddressFamily::INET, AddressFamily::INET6]
            .map(|family| rustix::net::socket(family, SocketType::STREAM, None));
        let number = |descriptor: RawFd| u32::try_from(descriptor).unwrap_or(0);
        let own_socket = number(socket.as_raw_fd());
        self.request.own_socket = own_socket;
        // Without IPv6 the one that there is, which is no TCP socket and like none.
        let own = tcp.each_ref().map(Result::as_ref);
        self.request.own_tcp = own.map(|own| own.map_or(own_socket, |own| number(own.as_raw_fd())));
        self.element.get_mut().request = self.request;
        self.program.run()?;
        let learned = self.element.get().request;
        self.request.socket_operations = learned.socket_operations;
        self.request.tcp = learned.tcp;
        if self.request.socket_operations == 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        Ok(())
    }

    /// Makes one run, and hands over the descriptors that it has met: of all processes and all
    /// network namespaces, in the order in which the processes began, from the agent's own on and
    /// round. No descriptor comes twice, but for those of a process that calls exec meanwhile.
    pub fn step(
        &mut self,
        walk: &mut OwnerWalk,
        mut each: impl FnMut(Owner),
    ) -> Result<Progress, OwnersError> {
        let begun = *walk.begun.get_or_insert_with(Instant::now);
        if walk.account.runs >= MAX_RUNS || begun.elapsed() >= MAX_TIME {
            return Err(OwnersError::Endless);
        }
        self.run(walk)?;
        let Self {
            element,
            chains,
            stopwatch,
            held: layout,
            ..
        } = self;
        let owners = element.get();
        let times = HeldTimes {
            since: |socket| stopwatch.as_ref()?.since(socket, owners.begun_ns),
            #[expect(clippy::cast_possible_truncation, reason = "the lower half counts")]
            jiffies: owners.jiffies as u32,
        };
        let tasks = walk.met(owners);
        for record in first(&owners.held, owners.held_count) {
            let Some((task, reached)) = tasks.get(record.task as usize) else {
                continue;
            };
            if record.descriptor < *reached {
                continue;
            }
            match layout.owner(&owners.request.wanted, record, *task, &times) {
                Ok(Some((mut owner, queued))) => {
                    if let Some(queued) = queued {
                        let waiting = match walk.queues.entry(record.sock) {
                            Entry::Occupied(known) => *known.get(),
                            Entry::Vacant(place) => *place.insert(chains.read(QueueOf {
                                sock: record.sock,
                                net: queued.net,
                                port: queued.port,
                            })?),
                        };
                        owner.unaccepted = waiting.close_wait;
                        owner.living = waiting.living;
                        owner.is_cut = waiting.is_cut;
                    }
                    each(owner);
                }
                Ok(None) => walk.account.changed += 1,
                Err(error) => walk.malformed(error),
            }
        }
        walk.pass(owners, &tasks);
        Ok(if owners.is_done != 0 {
            Progress::Done
        } else {
            Progress::More
        })
    }

    /// A whole walk, in one go. Returns who the processes are that it has met.
    pub fn walk(&mut self, mut each: impl FnMut(Owner)) -> Result<HeldProcesses, OwnersError> {
        let mut walk = OwnerWalk::default();
        while self.step(&mut walk, &mut each)? == Progress::More {}
        self.processes(&walk)
    }

    /// The kernel side's part of a step.
    fn run(&mut self, walk: &mut OwnerWalk) -> Result<(), OwnersError> {
        let (anchors, anchor_count) = walk.trail.anchors();
        self.element.get_mut().request = OwnersRequest {
            anchors,
            anchor_count,
            ..self.request
        };
        let begun = Instant::now();
        self.program.run()?;
        let took = begun.elapsed();
        let account = &mut walk.account;
        account.runs += 1;
        account.longest = account.longest.max(took);
        let used = self.element.get().anchor;
        if used >= anchor_count && anchor_count > 0 {
            account.restarts += 1;
            walk.trail.clear();
            if account.restarts > MAX_RESTARTS {
                return Err(OwnersError::Endless);
            }
        } else if used > 0 && anchor_count > 0 {
            account.gone_back += 1;
        }
        Ok(())
    }

    /// Who the processes are that a walk has met.
    pub fn processes(&mut self, walk: &OwnerWalk) -> Result<HeldProcesses, OwnersError> {
        let mut processes = FxHashMap::default();
        for (&id, record) in &walk.processes {
            let process = Process {
                id,
                name: decode::process_name(record),
                cgroup: self.cgroups.identity(record)?,
                descriptors: decode::descriptors(record),
                run_state: decode::run_state(record),
            };
            processes.insert(id, Arc::new(process));
        }
        Ok(processes)
    }
}

impl OwnerWalk {
    /// How it went so far.
    #[must_use]
    pub const fn account(&self) -> &WalkAccount {
        &self.account
    }

    /// The processes of one run, each with the first of its descriptors that is new.
    fn met(&self, owners: &Owners) -> Vec<(ProcessId, u32)> {
        let tasks = first(&owners.tasks, owners.task_count).iter();
        tasks
            .map(|record| {
                let id = decode::process_id(record);
                (id, self.reached.from(id))
            })
            .collect()
    }

    /// Takes note of how far it has come.
    fn pass(&mut self, owners: &Owners, tasks: &[(ProcessId, u32)]) {
        let records = first(&owners.tasks, owners.task_count);
        for (record, (id, _)) in records.iter().zip(tasks) {
            let is_at_hand = owners.cursor.at.tgid == id.tgid
                && owners.cursor.at.start_ns == id.start_boottime_ns;
            // A table that was left is not walked over again.
            let next = if is_at_hand && record.is_whole == 0 {
                owners.cursor.next
            } else {
                u32::MAX
            };
            self.reached.note(*id, next);
            let has_room = self.processes.len() < MAX_PROCESSES;
            match self.processes.entry(*id) {
                Entry::Occupied(mut known) => *known.get_mut() = *record,
                Entry::Vacant(place) if has_room => {
                    place.insert(*record);
                }
                Entry::Vacant(_) => {}
            }
        }
        self.account.tables_left += u64::from(owners.tables_left);
        self.account.processes += u64::from(owners.tasks_seen);
        self.trail.note(owners.cursor.at);
    }

    fn malformed(&mut self, error: DecodeError) {
        self.account.malformed += 1;
        tracing::debug!(%error, "a descriptor led to something that is no socket");
    }
}

/// As many elements as the kernel side says that it has filled.
fn first<T>(of: &[T], count: u32) -> &[T] {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    &of[..count.min(of.len())]
}
