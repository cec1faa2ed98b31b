//! From the plan to attached programs.

use std::{collections::BTreeMap, error::Error, fs, io, os::fd::AsFd as _};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, MapError, RingBuf},
    programs::{BtfTracePoint, ProgramError, tp_btf::BtfTracePointLink},
    util::nr_cpus,
};
use rustix::io::Errno;
use tcpstate_common::{NamespaceCounters, RecordMask, global, map};
use thiserror::Error;
use tracing::{Level, debug, enabled, warn};

use super::{
    event_ring::EventRing,
    facts::{Facts, type_of_tracepoint},
    flow::{Flow, FlowMaps},
    kernel_log::{KernelLog, KernelLogLevel},
    live_counters::LiveCounters,
    pass::{self, KernelTables, OpenError, OwnersError, OwnersReader, PassObject, Stopwatch},
    plan::{Obstacle, ProgramId, plan},
    reset_table::ResetTable,
    sparse_btf,
    synack_table::SynAckTable,
};
use crate::{decode::btf::TypeId, host::memory};

/// The programs, built by `cargo xtask ebpf build`.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf-object/tcpstate.bpf.o");

/// The smallest ring buffer there is; what an unused one shrinks to.
const PAGE: u32 = 4096;

/// What to load and how.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// The programs to run, where the facts allow them.
    pub programs: &'a [ProgramId],
    /// Which transitions get a record.
    pub record_mask: RecordMask,
    /// Size of the event ring in bytes; rounded up to a power of two of pages.
    pub event_ring_bytes: u32,
    /// Whether [`OwnersReader`] hands over every TCP socket, or only those that have to do with
    /// CLOSE_WAIT.
    pub every_owner: bool,
    /// Whether the kernel side may log.
    pub kernel_log: KernelLogLevel,
}

/// The programs that run. Dropping it takes all of them out of the kernel.
pub struct Loaded {
    /// The transition counters.
    pub flow: Option<Flow>,
    /// The transition records; there when `flow` is.
    pub events: Option<EventRing>,
    /// The kernel's own tables.
    pub tables: Option<KernelTables>,
    /// The kernel's list of processes.
    pub owners: Option<OwnersReader>,
    /// The counter of SYN-ACKs.
    pub synacks: Option<SynAckTable>,
    /// The counters of resets.
    pub resets: Option<ResetTable>,
    /// The kernel side's messages, if wanted.
    pub kernel_log: Option<KernelLog>,
    /// What became of each wanted program.
    pub programs: Vec<ProgramStatus>,
}

impl Loaded {
    fn refuse(&mut self, programs: &[ProgramId], obstacle: &Obstacle) {
        self.programs
            .extend(programs.iter().map(|&program| ProgramStatus {
                program,
                outcome: Err(obstacle.clone()),
            }));
        self.programs.sort_by_key(|status| status.program);
    }
}

/// What became of a program.
#[derive(Clone, Debug)]
pub struct ProgramStatus {
    /// The program.
    pub program: ProgramId,
    /// Instructions that the verifier went through (0 before Linux 5.16, which does not say), or
    /// why the program does not run.
    pub outcome: Result<u32, Obstacle>,
}

/// Which lockdown mode the kernel is in, where it tells: that in brackets.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// Memory for the live counters of all namespaces, on all CPUs.
const LIVE_BYTES: usize = 3 * 1024 * 1024;
/// More namespaces than that the kernel side does not know.
const MAX_NAMESPACES: usize = 4096;

/// For how many namespaces live counters fit, on a machine that can have `cpus` CPUs.
fn namespaces_that_fit(cpus: usize) -> u32 {
    let bytes = size_of::<NamespaceCounters>().next_multiple_of(8) * cpus.max(1);
    let fit = (LIVE_BYTES / bytes).clamp(16, MAX_NAMESPACES);
    u32::try_from(fit).unwrap_or(u32::MAX)
}

/// Why nothing at all could be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The object itself was refused.
    #[error("cannot load the eBPF object: {0}")]
    Object(#[from] aya::EbpfError),
    /// The library does not take the kernel's types.
    #[error("cannot tell the BPF library of the kernel's types: {0}")]
    Btf(#[from] aya::BtfError),
    /// The number of CPUs is not known.
    #[error("cannot read how many CPUs there can be: {0}")]
    Cpus(io::Error),
    /// A map that the agent reads is not in the object.
    #[error("cannot open map {name} of the eBPF object: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why not.
        source: MapError,
    },
}

/// Loads and attaches the programs of `options` that `facts` allow.
///
/// A program that cannot run is reported in [`Loaded::programs`] and left out; the others run.
pub fn load(facts: &Facts, options: &LoadOptions<'_>) -> Result<Loaded, LoadError> {
    let mut loaded = Loaded {
        flow: None,
        events: None,
        tables: None,
        owners: None,
        synacks: None,
        resets: None,
        kernel_log: None,
        programs: Vec::new(),
    };
    let mut allowed = Vec::new();
    for decision in plan(facts) {
        match decision.verdict {
            _ if !options.programs.contains(&decision.program) => {}
            Ok(()) => allowed.push(decision.program),
            Err(obstacle) => loaded.programs.push(ProgramStatus {
                program: decision.program,
                outcome: Err(obstacle),
            }),
        }
    }
    if allowed.is_empty() {
        return Ok(loaded);
    }

    raise_locked_memory_limit();
    let runs_on_request: Vec<ProgramId> = allowed
        .iter()
        .copied()
        .filter(|program| ProgramId::SNAPSHOT.contains(program))
        .collect();
    if runs_on_request.len() == allowed.len() {
        // Nothing that is attached is wanted, nor what that would know.
        load_readers(facts, options, &runs_on_request, None, &mut loaded);
        return Ok(loaded);
    }
    // The library rounds up in the same way.
    let event_ring_bytes = options.event_ring_bytes.max(PAGE).next_power_of_two();
    let mut ebpf = match open_object(facts, options) {
        Ok(ebpf) => ebpf,
        Err(LoadError::Object(error)) => {
            loaded.refuse(&allowed, &object_refusal(&error));
            return Ok(loaded);
        }
        Err(error) => return Err(error),
    };
    if options.kernel_log != KernelLogLevel::Off {
        loaded.kernel_log = KernelLog::start(&mut ebpf);
    }
    let btf = sparse_btf::of_typedefs(&typedefs(facts))?;
    let mut reset_links = Vec::new();
    let mut origin = None;
    for program in allowed {
        let outcome = match program {
            ProgramId::Transition => {
                start_transition(&mut ebpf, &btf, event_ring_bytes, &mut loaded)?.map(
                    |(verified, measured_from)| {
                        origin = Some(measured_from);
                        verified
                    },
                )
            }
            // After the others: by then the kernel's types take no memory any more.
            ProgramId::Tables | ProgramId::Owners => continue,
            ProgramId::SynAck => start_synack(&mut ebpf, &btf, &mut loaded)?,
            ProgramId::ResetSent | ProgramId::ResetReceived => attach(&mut ebpf, &btf, program)
                .map(|(verified, link)| {
                    reset_links.push((program, link));
                    verified
                }),
        };
        let outcome = outcome.map_err(|error| refusal(program, &error));
        loaded.programs.push(ProgramStatus { program, outcome });
    }
    drop(btf);
    memory::give_back();
    let stopwatch = origin.filter(|_| runs_on_request.contains(&ProgramId::Owners));
    let stopwatch = stopwatch.map(|origin| {
        Stopwatch::take(&mut ebpf, origin)
            .inspect_err(|error| warn!(%error, "cannot tell since when sockets are in CLOSE_WAIT"))
            .ok()
    });
    load_readers(
        facts,
        options,
        &runs_on_request,
        stopwatch.flatten(),
        &mut loaded,
    );
    loaded.programs.sort_by_key(|status| status.program);
    if !reset_links.is_empty() {
        let counters = take_map(&mut ebpf, map::RESETS)?;
        let reasons = facts.btf.as_ref().map(|btf| btf.reset_reasons.as_slice());
        let reasons = reasons.unwrap_or_default();
        loaded.resets = Some(ResetTable::new(counters, reasons, reset_links));
    }

    Ok(loaded)
}

/// The kernel's types that programs are attached by.
fn typedefs(facts: &Facts) -> BTreeMap<String, TypeId> {
    let tracepoints = facts.btf.iter().flat_map(|btf| &btf.tracepoints);
    tracepoints
        .map(|(name, &id)| (type_of_tracepoint(name), id))
        .collect()
}

fn open_object(facts: &Facts, options: &LoadOptions<'_>) -> Result<Ebpf, LoadError> {
    let offsets: Vec<(&str, u32)> = facts
        .btf
        .iter()
        .flat_map(|btf| &btf.offsets)
        .filter_map(|(name, offset)| Some((*name, *offset.as_ref().ok()?)))
        .collect();
    let record_mask = options.record_mask.bits();
    // As large as the ring becomes.
    let wake_up_bytes = options.event_ring_bytes.max(PAGE).next_power_of_two() / 4;
    let log_level = options.kernel_log.global();
    let reset_reasons = facts.btf.iter().any(|btf| !btf.reset_reasons.is_empty());
    let reset_reasons = u8::from(reset_reasons);

    let cpus = nr_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
    let live_slots = namespaces_that_fit(cpus);

    let mut loader = EbpfLoader::new();
    loader
        // For CO-RE relocations, of which the object has none; the loader would keep it parsed.
        .btf(None)
        .override_global(global::RECORD_MASK, &record_mask, true)
        .override_global(global::WAKE_UP_BYTES, &wake_up_bytes, true)
        .override_global(global::LOG_LEVEL, &log_level, true)
        .override_global(global::RESETS_HAVE_REASONS, &reset_reasons, true)
        .map_max_entries(map::EVENTS, options.event_ring_bytes.max(PAGE))
        .override_global(global::LIVE_SLOTS, &live_slots, true)
        .map_max_entries(map::LIVE, live_slots)
        // The whole story of a program can be more than the kernel writes down, which is then all
        // that it complains of.
        .verifier_log_level(if enabled!(Level::DEBUG) {
            VerifierLogLevel::default()
        } else {
            VerifierLogLevel::STATS
        });
    if options.kernel_log == KernelLogLevel::Off {
        loader.map_max_entries(map::KERNEL_LOG, PAGE);
    }
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    Ok(loader.load(OBJECT)?)
}

/// The instructions that were verified, and what the program measures addresses from. The outer
/// error is the object's, the inner one the kernel's refusal of this program.
fn start_transition(
    ebpf: &mut Ebpf,
    btf: &Btf,
    event_ring_bytes: u32,
    loaded: &mut Loaded,
) -> Result<Result<(u32, u64), ProgramError>, LoadError> {
    let mut attach = || {
        let program = load_at_tracepoint(ebpf, btf, ProgramId::Transition)?;
        let link = program.attach()?;
        let link = program.take_link(link)?;
        let info = program.info()?;
        let descriptor = program.fd()?.as_fd().try_clone_to_owned()?;
        let origin = pass::origin(ebpf)?;
        Ok((verified_instructions(&info), descriptor, link, origin))
    };
    let (verified, descriptor, link, origin) = match attach() {
        Ok(attached) => attached,
        Err(error) => return Ok(Err(error)),
    };
    let maps = FlowMaps {
        counters: take_map(ebpf, map::COUNTERS)?,
        live: LiveCounters::new(
            take_map(ebpf, map::LIVE)?,
            take_map(ebpf, map::SLOTS)?,
            take_map(ebpf, map::YOUNG)?,
            origin,
        ),
        event_counters: take_map(ebpf, map::EVENT_COUNTERS)?,
    };
    loaded.flow = Some(Flow::new(maps, descriptor, link));
    let ring: RingBuf<MapData> = take_map(ebpf, map::EVENTS)?;
    loaded.events = Some(EventRing::new(ring, event_ring_bytes));
    Ok(Ok((verified, origin)))
}

/// The outer error is the object's, the inner one the kernel's refusal of this program.
fn start_synack(
    ebpf: &mut Ebpf,
    btf: &Btf,
    loaded: &mut Loaded,
) -> Result<Result<u32, ProgramError>, LoadError> {
    let (verified, link) = match attach(ebpf, btf, ProgramId::SynAck) {
        Ok(attached) => attached,
        Err(error) => return Ok(Err(error)),
    };
    loaded.synacks = Some(SynAckTable::new(take_map(ebpf, map::SYNACKS)?, link));
    Ok(Ok(verified))
}

/// Loads the programs that are run on request.
fn load_readers(
    facts: &Facts,
    options: &LoadOptions<'_>,
    programs: &[ProgramId],
    stopwatch: Option<Stopwatch>,
    loaded: &mut Loaded,
) {
    let Ok(btf) = &facts.btf else {
        // The plan has said why.
        return;
    };
    let mut object = match PassObject::load() {
        Ok(object) => object,
        Err(error) => {
            loaded.refuse(programs, &object_refusal(&error));
            return;
        }
    };
    let mut stopwatch = stopwatch;
    for &program in programs {
        let outcome = match (program, &btf.layout, &btf.owners) {
            (ProgramId::Tables, Ok(layout), _) => object
                .tables(layout)
                .map(|tables| loaded.tables.insert(tables).verified())
                .map_err(|error| match error {
                    OpenError::Program(error) => refusal(program, &error),
                    error => unexpected(&error),
                }),
            (ProgramId::Owners, _, Ok(layout)) => object
                .owners(layout, options.every_owner, stopwatch.take())
                .map(|owners| loaded.owners.insert(owners).verified())
                .map_err(|error| match error {
                    OwnersError::Run(error) => refusal(program, &error),
                    error => unexpected(&error),
                }),
            // The plan has said why.
            _ => continue,
        };
        loaded.programs.push(ProgramStatus { program, outcome });
    }
    loaded.programs.sort_by_key(|status| status.program);
}

/// Attaches a program to its tracepoint.
fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    id: ProgramId,
) -> Result<(u32, BtfTracePointLink), ProgramError> {
    let program = load_at_tracepoint(ebpf, btf, id)?;
    let link = program.attach()?;
    let link = program.take_link(link)?;
    Ok((verified_instructions(&program.info()?), link))
}

fn unexpected(error: &dyn Error) -> Obstacle {
    Obstacle {
        cause: error.to_string(),
        remedy: "report it with the output of `uname -r`".to_owned(),
    }
}

fn load_at_tracepoint<'a>(
    ebpf: &'a mut Ebpf,
    btf: &Btf,
    id: ProgramId,
) -> Result<&'a mut BtfTracePoint, ProgramError> {
    let program = ebpf.program_mut(id.name()).ok_or(ProgramError::NotLoaded)?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(id.tracepoint().ok_or(ProgramError::NotLoaded)?, btf)?;
    Ok(program)
}

pub(super) fn verified_instructions(info: &aya::programs::ProgramInfo) -> u32 {
    info.verified_instruction_count().unwrap_or(0)
}

pub(super) fn take_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, LoadError>
where
    M: TryFrom<Map, Error = MapError>,
{
    ebpf.take_map(name)
        .ok_or_else(|| MapError::InvalidName { name: name.into() })
        .and_then(M::try_from)
        .map_err(|source| LoadError::Map { name, source })
}

/// Kernels before 5.11 charge maps to this limit. Best effort: where it may not be raised and is
/// too low, loading fails and says so.
pub(super) fn raise_locked_memory_limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        debug!(%error, "cannot raise the limit of locked memory");
    }
}

/// Why the kernel does not take the object: nearly always permissions that look sufficient.
fn object_refusal(error: &aya::EbpfError) -> Obstacle {
    let mut cause = error.to_string();
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // The errors of the library repeat the ones that they wrap, or do not name them.
    let innermost = innermost.to_string();
    if !cause.contains(&innermost) {
        cause = format!("{cause}: {innermost}");
    }
    Obstacle {
        cause: format!("the kernel refuses the eBPF object: {cause}"),
        remedy: "capabilities must be held in the host's user namespace, not in a container's \
                 own; else look for what forbids BPF here: seccomp, an LSM, a limit of locked \
                 memory before Linux 5.11"
            .to_owned(),
    }
}

fn refusal(program: ProgramId, error: &ProgramError) -> Obstacle {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return Obstacle {
            cause: format!("cannot load or attach {}: {error}", program.name()),
            remedy: "see the kernel log".to_owned(),
        };
    };
    debug!(program = program.name(), %verifier_log, "the verifier's words");
    let lockdown = fs::read_to_string(LOCKDOWN).unwrap_or_default();
    let remedy = remedy(io_error, &lockdown);
    let name = program.name();
    let cause = match last_words(&verifier_log.to_string()) {
        Some(words) => format!("the kernel refuses {name}: {io_error}: {words}"),
        None => format!("the kernel refuses {name}: {io_error}"),
    };
    Obstacle {
        cause,
        remedy: remedy.to_owned(),
    }
}

/// What to do about it, where the kernel's [`LOCKDOWN`] says this.
fn remedy(error: &io::Error, lockdown: &str) -> &'static str {
    if lockdown.contains("[confidentiality]") {
        // Then it says of a helper that there is none.
        return "the kernel is in its lockdown mode `confidentiality`, in which no program may read \
                its memory: boot it with lockdown=integrity";
    }
    // The verifier says EACCES, which reads alike; EPERM is a matter of permission.
    if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) {
        "look for what forbids BPF here: seccomp, an LSM, or the kernel's lockdown mode"
    } else {
        "run with --log.level debug and report the verifier's words"
    }
}

/// What the verifier complains of, which is the last that it says before its statistics.
pub(super) fn last_words(verifier_log: &str) -> Option<&str> {
    verifier_log.lines().map(str::trim).rfind(|line| {
        let is_statistics = ["processed ", "stack depth ", "verification time "]
            .iter()
            .any(|beginning| line.starts_with(beginning));
        !line.is_empty() && !is_statistics
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_counters_stay_within_their_memory() {
        for (cpus, fit) in [(1, 4096), (2, 4096), (64, 175), (128, 87), (4096, 16)] {
            assert_eq!(namespaces_that_fit(cpus), fit, "{cpus} CPUs");
        }
    }

    #[test]
    fn the_remedy_of_a_refusal_is_that_of_its_cause() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let invalid = error(Errno::INVAL);
        let locked = remedy(&invalid, "none integrity [confidentiality]\n");
        assert!(locked.contains("lockdown=integrity"), "{locked}");
        for lockdown in ["", "none [integrity] confidentiality\n"] {
            assert!(remedy(&invalid, lockdown).contains("report"));
            assert!(remedy(&error(Errno::PERM), lockdown).contains("seccomp"));
        }
    }

    #[test]
    fn the_verifiers_complaint_is_found_before_its_statistics() {
        let log = "R1 invalid mem access 'inv'\n\
                   verification time 20 usec\n\
                   stack depth 8\n\
                   processed 3 insns (limit 1000000) max_states_per_insn 0\n";
        assert_eq!(last_words(log), Some("R1 invalid mem access 'inv'"));
        assert_eq!(last_words("processed 3 insns\n\n"), None);
        assert_eq!(last_words(""), None);
    }
}
