//! The programs that count segments on network interfaces, in an object of their own: where nobody
//! asked for them they are not in the kernel.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf},
    programs::{
        Program, ProgramError, ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp,
    },
    util::nr_cpus,
};
use tcpstate_common::{
    DeviceEntry, Direction, SegmentCounts, SegmentEvents, segment_global, segment_map,
    segment_program,
};
use tracing::{Level, debug, enabled};

use super::{
    event_ring::RecordsRead,
    facts::{Capability, Facts},
    load::{LoadError, last_words, raise_locked_memory_limit, take_map, verified_instructions},
    plan::Obstacle,
    syscall::{Place, link_to_interface},
    wire::Wire,
};
use crate::{
    collect::segments::{Segment, packet::Framing},
    decode::DecodeError,
};

/// Built by `cargo xtask ebpf build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf-object/segments.bpf.o");

/// How to load them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SegmentOptions {
    /// Telling segments that each CPU may record in a window of
    /// [`WINDOW_NS`](SegmentEvents::WINDOW_NS); 0 for none.
    pub record_limit: u32,
    /// Size of the ring of records in bytes; rounded up to a power of two of pages.
    pub ring_bytes: u32,
}

/// How XDP runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack, whatever the driver.
    Skb,
}

/// `XDP_FLAGS_…`.
const SKB_MODE: u32 = 1 << 1;
const DRIVER_MODE: u32 = 1 << 2;
/// `BPF_F_BEFORE`: before every other program of the interface, which may let none after it run.
const FIRST: u32 = 1 << 3;

/// Memory for the counters of all interfaces, on all CPUs.
const COUNTER_BYTES: usize = 4 * 1024 * 1024;
/// More interfaces than that are not counted at once.
const MAX_DEVICES: usize = 64;
/// The smallest ring there is.
const PAGE: u32 = 4096;

/// What became of a program.
#[derive(Clone, Debug)]
pub struct SegmentProgram {
    /// Its name in the object and in `bpftool`.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Instructions that the verifier went through (0 before Linux 5.16, which does not say), or
    /// why the program does not run.
    pub outcome: Result<u32, Obstacle>,
}

/// The loaded programs and their counters. What is attached are the links, which are not in here.
pub struct Segments {
    ebpf: Ebpf,
    xdp: &'static str,
    devices: Array<MapData, Wire<DeviceEntry>>,
    counts: PerCpuArray<MapData, Wire<SegmentCounts>>,
    events: PerCpuArray<MapData, Wire<SegmentEvents>>,
    ring: RingBuf<MapData>,
    read: RecordsRead,
    slots: Slots,
    programs: Vec<SegmentProgram>,
}

/// Why an interface cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// As many as fit are.
    #[error("no room for the counters of more than {0} interfaces")]
    Full(u32),
    /// All places that it could have are taken.
    #[error("no place for interface number {0}")]
    NoPlace(u32),
    /// The maps could not be written.
    #[error("cannot write the counters of an interface: {0}")]
    Map(#[from] MapError),
}

/// What a program made of a packet that it was given for a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What it returned.
    pub verdict: u32,
    /// The packet as it was afterwards.
    pub packet: Vec<u8>,
    /// How long a run took, on average.
    pub took: Duration,
}

impl Segments {
    /// Loads the programs. Each that cannot run is reported and left out.
    pub fn load(facts: &Facts, options: SegmentOptions) -> Result<Self, LoadError> {
        raise_locked_memory_limit();
        let cpus = nr_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
        let devices = devices_that_fit(cpus);
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global(segment_global::RECORD_LIMIT, &options.record_limit, true)
            .map_max_entries(segment_map::COUNTS, devices * 2)
            .map_max_entries(segment_map::RECORDS, options.ring_bytes.max(PAGE))
            .verifier_log_level(if enabled!(Level::DEBUG) {
                VerifierLogLevel::default()
            } else {
                VerifierLogLevel::STATS
            });
        let mut ebpf = loader.load(OBJECT)?;
        // Linux 5.18 and newer take the one that can have packets in pieces.
        let mut xdp = segment_program::XDP_FRAGS;
        let mut xdp_outcome = load_program(&mut ebpf, xdp);
        if xdp_outcome.is_err() {
            xdp = segment_program::XDP;
            xdp_outcome = load_program(&mut ebpf, xdp);
        }
        let outcomes = [
            (xdp, "segments that come in, by XDP", xdp_outcome),
            (
                segment_program::TC_IN,
                "segments that come in where XDP cannot be had",
                load_program(&mut ebpf, segment_program::TC_IN),
            ),
            (
                segment_program::TC_OUT,
                "segments that go out",
                load_program(&mut ebpf, segment_program::TC_OUT),
            ),
        ];
        let programs = outcomes.map(|(name, purpose, outcome)| SegmentProgram {
            name,
            purpose,
            outcome: outcome.map_err(|error| refusal(facts, name, &error)),
        });
        Ok(Self {
            devices: take_map(&mut ebpf, segment_map::DEVICES)?,
            counts: take_map(&mut ebpf, segment_map::COUNTS)?,
            events: take_map(&mut ebpf, segment_map::EVENTS)?,
            ring: take_map(&mut ebpf, segment_map::RECORDS)?,
            read: RecordsRead::default(),
            slots: Slots::new(devices),
            programs: programs.into(),
            xdp,
            ebpf,
        })
    }

    /// What became of each program.
    #[must_use]
    pub fn programs(&self) -> &[SegmentProgram] {
        &self.programs
    }

    /// Gives an interface counters, which start at 0. To be done before it is attached to.
    pub fn add_device(&mut self, index: u32, framing: Framing) -> Result<(), DeviceError> {
        if self.slots.taken.contains_key(&index) {
            return Ok(());
        }
        let taken = self.slots.take(index)?;
        let added = self.write_device(taken, index, framing);
        if added.is_err() {
            self.slots.give_back(index);
        }
        Ok(added?)
    }

    fn write_device(&mut self, taken: Taken, index: u32, framing: Framing) -> Result<(), MapError> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        for direction in Direction::ALL {
            let zeros = PerCpuValues::try_from(vec![Wire(SegmentCounts::ZERO); cpus])?;
            self.counts.set(element(taken.slot, direction), zeros, 0)?;
        }
        let entry = DeviceEntry {
            index,
            slot: taken.slot,
            is_raw_ip: u32::from(framing == Framing::RawIp),
            padding: 0,
        };
        self.devices.set(taken.place, Wire(entry), 0)
    }

    /// Takes the counters of an interface. To be done when nothing is attached to it any more.
    pub fn remove_device(&mut self, index: u32) -> Result<(), MapError> {
        let Some(taken) = self.slots.taken.get(&index) else {
            return Ok(());
        };
        self.devices
            .set(taken.place, Wire(DeviceEntry::default()), 0)?;
        self.slots.give_back(index);
        Ok(())
    }

    /// What was counted on an interface since it was added; `None` where it was not.
    #[must_use]
    pub fn counts(
        &self,
        index: u32,
        direction: Direction,
    ) -> Option<Result<SegmentCounts, MapError>> {
        let taken = self.slots.taken.get(&index)?;
        let element = element(taken.slot, direction);
        Some(self.counts.get(&element, 0).map(|cpus| {
            let mut sum = SegmentCounts::ZERO;
            for Wire(cpu) in cpus.iter() {
                sum.add(cpu);
            }
            sum
        }))
    }

    /// What became of the telling segments.
    pub fn events(&self) -> Result<SegmentEvents, MapError> {
        let mut sum = SegmentEvents::default();
        for Wire(cpu) in self.events.get(&0, 0)?.iter() {
            sum.add(cpu);
        }
        Ok(sum)
    }

    /// Hands the records that are in the ring to `take`, oldest first. Ends: the kernel side writes
    /// no more than its limit. Returns the last reason for which a record was dropped, if one was.
    pub fn drain(&mut self, mut take: impl FnMut(Segment)) -> Option<DecodeError> {
        let mut refused = None;
        while let Some(record) = self.ring.next() {
            match Segment::decode(&record) {
                Ok(segment) => {
                    self.read.decoded += 1;
                    take(segment);
                }
                Err(error) => {
                    self.read.malformed += 1;
                    refused = Some(error);
                }
            }
        }
        refused
    }

    /// What became of the records that were read.
    #[must_use]
    pub const fn records_read(&self) -> RecordsRead {
        self.read
    }

    /// Has XDP count what comes in by an interface, for as long as the link is open. Fails where
    /// another program is there.
    pub fn attach_xdp(&self, index: u32, mode: XdpMode) -> io::Result<OwnedFd> {
        let flags = match mode {
            XdpMode::Native => DRIVER_MODE,
            XdpMode::Skb => SKB_MODE,
        };
        let program = self.program_fd(self.xdp)?;
        link_to_interface(program.as_fd(), index, Place::Xdp, flags)
    }

    /// Has TC count, for as long as the link is open. `InvalidInput` before Linux 6.6, which has
    /// no such links.
    pub fn attach_tcx(&self, index: u32, direction: Direction) -> io::Result<OwnedFd> {
        let place = match direction {
            Direction::Ingress => Place::TcxIngress,
            Direction::Egress => Place::TcxEgress,
        };
        let program = self.tc_program(direction)?;
        link_to_interface(program.as_fd(), index, place, FIRST)
    }

    /// The program for TC.
    pub fn tc_program(&self, direction: Direction) -> io::Result<BorrowedFd<'_>> {
        let name = match direction {
            Direction::Ingress => segment_program::TC_IN,
            Direction::Egress => segment_program::TC_OUT,
        };
        self.program_fd(name).map(ProgramFd::as_fd)
    }

    fn program_fd(&self, name: &str) -> io::Result<&ProgramFd> {
        let program = self.ebpf.program(name);
        program
            .and_then(|program| program.fd().ok())
            .ok_or_else(|| io::Error::other(format!("{name} is not loaded")))
    }

    /// Runs the program that counts by XDP on a packet, `repeat` times, as if it came in by the
    /// loopback interface.
    pub fn try_xdp(&self, packet: &[u8], repeat: u32) -> Result<Trial, ProgramError> {
        match self.ebpf.program(self.xdp) {
            Some(Program::Xdp(program)) => {
                trial(packet, repeat, |options| program.test_run(options))
            }
            _ => Err(ProgramError::NotLoaded),
        }
    }

    /// Runs a program that counts by TC on a packet, in the same way.
    pub fn try_tc(
        &self,
        direction: Direction,
        packet: &[u8],
        repeat: u32,
    ) -> Result<Trial, ProgramError> {
        let name = match direction {
            Direction::Ingress => segment_program::TC_IN,
            Direction::Egress => segment_program::TC_OUT,
        };
        match self.ebpf.program(name) {
            Some(Program::SchedClassifier(program)) => {
                trial(packet, repeat, |options| program.test_run(options))
            }
            _ => Err(ProgramError::NotLoaded),
        }
    }
}

/// Whether a link to an interface still leads there: its owner keeps it when somebody detaches it.
pub fn is_linked(link: &OwnedFd) -> io::Result<bool> {
    let path = format!("/proc/self/fdinfo/{}", link.as_raw_fd());
    Ok(is_linked_by(&fs::read_to_string(path)?))
}

/// The kernel tells 0 where there is no interface any more ([`bpf_xdp_link_show_fdinfo()`],
/// `tcx_link_fdinfo()`).
///
/// [`bpf_xdp_link_show_fdinfo()`]: https://github.com/torvalds/linux/blob/v6.12/net/core/dev.c
fn is_linked_by(fdinfo: &str) -> bool {
    let mut lines = fdinfo.lines();
    let interface = lines.find_map(|line| line.strip_prefix("ifindex:"));
    interface.is_none_or(|interface| interface.trim() != "0")
}

fn trial(
    packet: &[u8],
    repeat: u32,
    run: impl FnOnce(TestRunOptions<'_>) -> Result<aya::programs::TestRunResult, ProgramError>,
) -> Result<Trial, ProgramError> {
    let mut after = vec![0; packet.len() + 256];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut after),
        repeat,
        ..TestRunOptions::default()
    };
    let result = run(options)?;
    after.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
    Ok(Trial {
        verdict: result.return_value,
        packet: after,
        took: result.duration,
    })
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<u32, ProgramError> {
    let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
    let info = match program {
        Program::Xdp(program) => {
            Xdp::load(program)?;
            program.info()?
        }
        Program::SchedClassifier(program) => {
            SchedClassifier::load(program)?;
            program.info()?
        }
        _ => return Err(ProgramError::NotLoaded),
    };
    Ok(verified_instructions(&info))
}

fn refusal(facts: &Facts, name: &str, error: &ProgramError) -> Obstacle {
    let needed = [Capability::Bpf, Capability::NetAdmin];
    if let Some(missing) = facts.capabilities.missing(&needed) {
        return Obstacle {
            cause: format!("missing {missing}"),
            remedy: "run as root, or grant CAP_BPF and CAP_NET_ADMIN".to_owned(),
        };
    }
    let cause = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            debug!(program = name, %verifier_log, "the verifier's words");
            match last_words(&verifier_log.to_string()) {
                Some(words) => format!("the kernel refuses it: {io_error}: {words}"),
                None => format!("the kernel refuses it: {io_error}"),
            }
        }
        error => error.to_string(),
    };
    Obstacle {
        cause,
        remedy: "look for what forbids BPF here: seccomp, an LSM; --log.level debug shows the \
                 verifier's words"
            .to_owned(),
    }
}

/// For how many interfaces counters fit, on a machine that can have `cpus` CPUs.
fn devices_that_fit(cpus: usize) -> u32 {
    let bytes = 2 * size_of::<SegmentCounts>() * cpus.max(1);
    let fit = (COUNTER_BYTES / bytes).clamp(8, MAX_DEVICES);
    u32::try_from(fit).unwrap_or(u32::MAX)
}

fn element(slot: u32, direction: Direction) -> u32 {
    slot * 2 + u32::from(direction == Direction::Egress)
}

/// Which counters, and which place of the table, belong to which interface.
#[derive(Debug)]
struct Slots {
    all: u32,
    free: Vec<u32>,
    taken: BTreeMap<u32, Taken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    slot: u32,
    place: u32,
}

impl Slots {
    fn new(all: u32) -> Self {
        Self {
            all,
            free: (0..all).rev().collect(),
            taken: BTreeMap::new(),
        }
    }

    fn take(&mut self, index: u32) -> Result<Taken, DeviceError> {
        let is_free = |place: &u32| !self.taken.values().any(|taken| taken.place == *place);
        let place = (0..DeviceEntry::PLACES)
            .map(|number| DeviceEntry::place(index, number))
            .find(is_free)
            .ok_or(DeviceError::NoPlace(index))?;
        let slot = self.free.pop().ok_or(DeviceError::Full(self.all))?;
        let taken = Taken { slot, place };
        self.taken.insert(index, taken);
        Ok(taken)
    }

    fn give_back(&mut self, index: u32) {
        self.free
            .extend(self.taken.remove(&index).map(|taken| taken.slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_told_by_its_interface() {
        let fdinfo = |interface: &str| {
            format!("pos:\t0\nlink_type:\txdp\nlink_id:\t7\nprog_id:\t9\nifindex:\t{interface}\n")
        };
        assert!(is_linked_by(&fdinfo("10")));
        assert!(!is_linked_by(&fdinfo("0")));
        // A kernel that does not tell.
        assert!(is_linked_by("pos:\t0\nlink_type:\txdp\n"));
    }

    #[test]
    fn the_counters_stay_within_their_memory() {
        for cpus in [1, 2, 64, 128, 256] {
            let bytes = devices_that_fit(cpus) as usize * 2 * size_of::<SegmentCounts>() * cpus;
            let least = 8 * 2 * size_of::<SegmentCounts>() * cpus;
            assert!(bytes <= COUNTER_BYTES.max(least), "{cpus} CPUs: {bytes}");
        }
        assert_eq!(devices_that_fit(2), 64);
    }

    #[test]
    fn interfaces_have_counters_and_places_of_their_own() {
        let mut slots = Slots::new(3);
        // The same first place.
        let taken = [1, 1 + DeviceEntry::TABLE, 1 + 2 * DeviceEntry::TABLE]
            .map(|index| slots.take(index).unwrap());
        assert!(taken[0].place != taken[1].place && taken[1].place != taken[2].place);
        assert!(taken[0].slot != taken[1].slot && taken[1].slot != taken[2].slot);
        assert!(matches!(slots.take(7), Err(DeviceError::Full(3))));
        slots.give_back(1);
        assert_eq!(slots.take(7).unwrap().slot, taken[0].slot);
    }

    #[test]
    fn an_interface_without_a_place_is_refused_and_takes_no_counters() {
        let mut slots = Slots::new(8);
        for number in 0..DeviceEntry::PLACES {
            slots.take(5 + number * DeviceEntry::TABLE).unwrap();
        }
        let free = slots.free.len();
        let refused = slots.take(5 + 9 * DeviceEntry::TABLE);
        assert!(matches!(refused, Err(DeviceError::NoPlace(_))));
        assert_eq!(slots.free.len(), free);
    }
}
