//! The flow engine's counters: what happened.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Instant,
};

use aya::{
    maps::{MapData, MapError, PerCpuArray},
    programs::tp_btf::BtfTracePointLink,
};
use tcpstate_common::{
    CloseCounters, CpuCounters, EventCounters, Handshakes, NamespaceCounters, StateDurations,
    TransitionMatrix,
};
use zerocopy::FromBytes;

use super::{
    live_counters::{AddError, LiveCounters},
    wire::Wire,
};
use crate::collect::sockets::NamespaceId;

/// The counters of the attached transition program. Dropping it detaches the program.
pub struct Flow {
    counters: PerCpuArray<MapData, Wire<CpuCounters>>,
    live: LiveCounters,
    /// As they were shown last.
    closes_shown: CloseCounters,
    event_counters: PerCpuArray<MapData, Wire<EventCounters>>,
    /// Keeps the program's account open.
    program: OwnedFd,
    /// Owned by this process: the kernel detaches the program when it dies, however it dies.
    _link: BtfTracePointLink,
}

/// The maps of the flow engine.
pub(super) struct FlowMaps {
    pub(super) counters: PerCpuArray<MapData, Wire<CpuCounters>>,
    pub(super) live: LiveCounters,
    pub(super) event_counters: PerCpuArray<MapData, Wire<EventCounters>>,
}

/// What was counted for the whole machine since the program was attached.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// All transitions.
    pub transitions: TransitionMatrix,
    /// How connections ended. Nothing in it ever goes back: an end that is corrected between two
    /// readings is in both of its counts until the next one is.
    pub closes: CloseCounters,
    /// How long sockets stayed in the states that they have left.
    pub durations: StateDurations,
    /// The handshakes that were completed.
    pub handshakes: Handshakes,
}

impl Counted {
    fn nothing() -> Self {
        Self {
            transitions: TransitionMatrix::ZERO,
            closes: CloseCounters::default(),
            durations: StateDurations::default(),
            handshakes: Handshakes::default(),
        }
    }

    fn add(&mut self, cpu: &CpuCounters) {
        let Self {
            transitions,
            closes,
            durations,
            handshakes,
        } = self;
        transitions.add(&cpu.transitions);
        closes.add(&cpu.closes);
        durations.add(&cpu.durations);
        handshakes.add(&cpu.handshakes);
    }
}

impl Flow {
    pub(super) fn new(maps: FlowMaps, program: OwnedFd, link: BtfTracePointLink) -> Self {
        let FlowMaps {
            counters,
            live,
            event_counters,
        } = maps;
        Self {
            counters,
            live,
            closes_shown: CloseCounters::default(),
            event_counters,
            program,
            _link: link,
        }
    }

    /// All that is counted for the whole machine, each CPU's counts as they are at one moment: what
    /// one transition adds to one of them and another is in both or in neither, but for a
    /// transition that is counted in that very moment.
    pub fn counted(&mut self) -> Result<Counted, MapError> {
        let mut counted = sum(&self.counters, 0, Counted::nothing(), Counted::add)?;
        self.closes_shown.rise_to(&counted.closes);
        counted.closes = self.closes_shown;
        Ok(counted)
    }

    /// Transitions that the program did not see. The kernel runs no program inside itself
    /// ([`__bpf_trace_run`], since 5.12 with a count): a transition in an interrupt that comes
    /// while the program runs on that CPU is passed over. Some of a million, at most.
    ///
    /// [`__bpf_trace_run`]: https://github.com/torvalds/linux/blob/v6.12/kernel/trace/bpf_trace.c
    pub fn missed(&self) -> io::Result<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        Ok(parse_missed(&fs::read_to_string(path)?))
    }

    /// What became of the records since the program was attached.
    pub fn events(&self) -> Result<EventCounters, MapError> {
        sum(
            &self.event_counters,
            0,
            EventCounters::default(),
            EventCounters::add,
        )
    }

    /// The counters of the namespace whose `struct net` is at this address; zeros where it has none.
    pub fn namespace(&self, net: u64) -> Result<NamespaceCounters, MapError> {
        self.live.of(net)
    }

    /// Gives the namespace at this address live counters, with what it has counted since it began,
    /// if there was room for that. To be done before it is counted for the first time. Does nothing
    /// where it has them. Another that was there before it has none any more.
    pub fn add_namespace(&mut self, net: u64, id: NamespaceId) -> Result<(), AddError> {
        self.live.add(net, id)
    }

    /// Whether something that a namespace at this address counted before it was added may be lost.
    #[must_use]
    pub fn may_lack(&self, net: u64) -> bool {
        self.live.was_dropped(net)
    }

    /// To be done when every namespace of the kernel's list was added: makes room for those that
    /// begin to count next.
    pub fn tidy(&mut self, now: Instant) -> Result<(), MapError> {
        self.live.tidy(now)
    }

    /// Takes the live counters of the namespace that was at this address.
    pub fn remove_namespace(&mut self, net: u64) -> Result<(), MapError> {
        self.live.remove(net)
    }
}

/// Element `index` of all CPUs, added up from `zeros`.
pub(super) fn sum<T: FromBytes + Copy + 'static, S>(
    map: &PerCpuArray<MapData, Wire<T>>,
    index: u32,
    zeros: S,
    add: impl Fn(&mut S, &T),
) -> Result<S, MapError> {
    let mut sum = zeros;
    for Wire(cpu) in map.get(&index, 0)?.iter() {
        add(&mut sum, cpu);
    }
    Ok(sum)
}

/// Finds `recursion_misses` in what the kernel tells of a program's descriptor; 0 before 5.12,
/// which does not count them.
fn parse_missed(fdinfo: &str) -> u64 {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use tcpstate_common::{Due, TcpState, TimedState};
    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn all_that_a_cpu_counted_is_added_up_together() {
        let mut cpu = CpuCounters::new_zeroed();
        let (from, to) = (TcpState::CloseWait, TcpState::LastAck);
        cpu.transitions.record(Due::of(from as u32, to as u32));
        cpu.closes.count[0] = 2;
        let of = TimedState::CloseWait.slot();
        cpu.durations.of[of].sum_ns = 3;
        cpu.handshakes.server.retransmitted = 4;
        let mut counted = Counted::nothing();
        for _ in 0..2 {
            counted.add(&cpu);
        }
        assert_eq!(counted.transitions.of(from, to), 2);
        assert_eq!(counted.closes.count[0], 4);
        assert_eq!(counted.durations.of[of].sum_ns, 6);
        assert_eq!(counted.handshakes.server.retransmitted, 8);
    }

    #[test]
    fn missed_transitions_are_found_in_the_account_of_the_program() {
        let fdinfo = "pos:\t0\nprog_type:\t26\nrun_cnt:\t0\nrecursion_misses:\t17\n";
        assert_eq!(parse_missed(fdinfo), 17);
        assert_eq!(parse_missed("pos:\t0\n"), 0);
    }
}
