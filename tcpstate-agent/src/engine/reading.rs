//! What one scrape sees.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tcpstate_common::{
    CloseCounters, EventCounters, Handshakes, NamespaceCounters, StateDurations, TransitionMatrix,
};

use super::{CloseWait, FaultSums, ListenersReading, OutgoingReading};
use crate::{
    collect::{
        counters::KernelCounters,
        segments::SegmentsReading,
        sockets::{Census, Minisockets},
    },
    decode::Limits,
    kernel::{ProgramStatus, Resets},
};

/// The state of the host at one moment. By default nothing is known.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Sockets of all namespaces. `None` where nothing can count them, and for the moment
    /// after the start until they have been counted once.
    pub sockets: Option<Census>,
    /// The namespaces that are counted, by inode number.
    pub by_namespace: BTreeMap<u32, NamespaceReading>,
    /// Transitions since the start. `None` where nothing can see them.
    pub transitions: Option<TransitionMatrix>,
    /// Transitions that the kernel side passed over.
    pub missed: Option<u64>,
    /// Who keeps sockets in CLOSE_WAIT. `None` where that cannot be told, or not yet.
    pub close_wait: Option<CloseWaitReading>,
    /// Where outgoing connections go. `None` as for `sockets`.
    pub outgoing: Option<OutgoingReading>,
    /// Full sockets that no process has any more, on the whole host. `None` where the kernel does
    /// not tell.
    pub orphans: Option<u64>,
    /// How long sockets were in the states that they have left. `None` where nothing sees them.
    pub durations: Option<StateDurations>,
    /// How connections ended. `None` where nothing sees them.
    pub closes: Option<CloseCounters>,
    /// Resets. `None` where nothing sees them.
    pub resets: Option<Resets>,
    /// Listening sockets. `None` where they cannot be read.
    pub listeners: Option<ListenersReading>,
    /// How long handshakes took. `None` where nothing sees them.
    pub handshakes: Option<Handshakes>,
    /// What became of the event records. `None` where there are none.
    pub events: Option<Events>,
    /// How good the snapshots are.
    pub snapshot: Option<SnapshotState>,
    /// Network namespaces. `None` where the kernel's list of them cannot be read.
    pub namespaces: Option<u64>,
    /// What the kernel itself counted since the start, in all namespaces. Without what it does not
    /// count.
    pub kernel_counters: KernelCounters,
    /// What limits handshakes in the agent's own namespace. `None` where that cannot be read.
    pub limits: Option<Limits>,
    /// `tcp_max_orphans`: how many sockets without a process there may be on the whole host.
    pub max_orphans: Option<u64>,
    /// What did not go well with reading the kernel's tables. `None` where they cannot be read.
    pub faults: Option<FaultSums>,
    /// Segments on network interfaces. `None` where nobody asked for them.
    pub segments: Option<SegmentsReading>,
    /// What became of the programs.
    pub programs: Vec<ProgramStatus>,
}

/// Who keeps sockets in CLOSE_WAIT, as it was found out last.
#[derive(Clone, Debug)]
pub struct CloseWaitReading {
    /// What was found.
    pub found: Arc<CloseWait>,
    /// How long ago.
    pub age: Duration,
    /// Groups that had no series of their own, summed over all times.
    pub folded: u64,
}

/// What is known of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceReading {
    /// Its sockets.
    pub sockets: Census,
    /// The minisockets among them.
    pub minisockets: Minisockets,
    /// What happened in it since it was found.
    pub live: NamespaceCounters,
    /// When its last snapshot ended.
    pub counted_at: Instant,
}

/// The account of the event records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The kernel side's part.
    pub kernel: EventCounters,
    /// Records that the agent understood.
    pub decoded: u64,
    /// Records that reached the agent and were not understood.
    pub malformed: u64,
}

impl Events {
    /// Records that were due and are not known: the ring was full, or they were malformed.
    /// `emitted = decoded + lost` once the ring is empty.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.kernel.lost + self.malformed
    }
}

/// How good the snapshots are that the gauges rest on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotState {
    /// How long it took to count all sockets, the last time.
    pub duration: Duration,
    /// How long ago that began.
    pub age: Duration,
    /// How many sockets can at most be shown in a wrong state. `None` where transitions are not
    /// seen: then anything may have happened since the snapshot.
    pub uncertain: Option<u64>,
    /// Sockets of a family or in a state that this version does not know, or of a namespace that
    /// was made meanwhile.
    pub unknown: u64,
}
