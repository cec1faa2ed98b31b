//! The agent about itself.

use super::{Kind, Label, Metric};

const PASS: Label = Label {
    name: "pass",
    values: "`sockets`: counting them; `owners`: finding out who keeps sockets in CLOSE_WAIT; \
             `listeners`: reading the queues of listening sockets",
};
const RING: Label = Label {
    name: "ring",
    values: "`transitions`",
};

/// What the agent is not let see.
pub const SOURCE_UP: Metric = Metric {
    name: "tcpstate_source_up",
    kind: Kind::Gauge,
    labels: &[Label {
        name: "source",
        values: "`sockstat`: /proc/thread-self/net/sockstat, for `tcpstate_orphaned_sockets`; \
                 `sysctl`: /proc/sys/net/ipv4/tcp_max_orphans, for `tcpstate_tcp_max_orphans`; \
                 `fdinfo`: /proc/self/fdinfo, for `tcpstate_missed_transitions_total`",
    }],
    help: "Whether a file that the agent reads beside its eBPF programs can be read. 0: what it is for \
           is absent.",
};

/// Version of the agent.
pub const BUILD_INFO: Metric = Metric {
    name: "tcpstate_build_info",
    kind: Kind::Gauge,
    labels: &[
        Label {
            name: "version",
            values: "version of the agent",
        },
        Label {
            name: "revision",
            values: "the commit that it is made of",
        },
        Label {
            name: "branch",
            values: "the branch of that commit",
        },
        Label {
            name: "rustcversion",
            values: "version of the compiler",
        },
    ],
    help: "Always 1; the labels tell which agent this is.",
};

/// Whether each eBPF program runs.
pub const PROGRAM_UP: Metric = Metric {
    name: "tcpstate_program_up",
    kind: Kind::Gauge,
    labels: &[Label {
        name: "program",
        values: "`tcp_transition` (transitions, and gauges that move with them), `read_table` \
                 (sockets by state, causes of CLOSE_WAIT, queues of listening sockets, peers that \
                 do not answer), `read_owners` (who holds sockets), `tcp_synack` (SYN-ACKs sent \
                 again), \
                 `tcp_reset_sent`, `tcp_reset_recv` (resets); where `--segments.device` asks \
                 for segments, `segments_xdp` or `segments_frags` (what comes in), `segments_tc_in` \
                 (the same, without XDP), `segments_tc_out` (what goes out)",
    }],
    help: "Whether this eBPF program is loaded. 0: what needs it is missing, `tcpstate-agent \
           check` tells why.",
};

/// Records that were due.
pub const EVENTS: Metric = Metric {
    name: "tcpstate_events_total",
    kind: Kind::Counter,
    labels: &[RING],
    help: "Records that the kernel side had for this ring buffer. Equals decoded plus lost.",
};

/// Records that were understood.
pub const EVENTS_DECODED: Metric = Metric {
    name: "tcpstate_events_decoded_total",
    kind: Kind::Counter,
    labels: &[RING],
    help: "Records of this ring buffer that the agent has read and understood.",
};

/// Records that are not known.
pub const EVENTS_LOST: Metric = Metric {
    name: "tcpstate_events_lost_total",
    kind: Kind::Counter,
    labels: &[RING],
    help: "Records that found this ring buffer full, or were malformed. They are missing from \
           details, never from totals.",
};

/// Records that were not understood.
pub const EVENTS_MALFORMED: Metric = Metric {
    name: "tcpstate_events_malformed_total",
    kind: Kind::Counter,
    labels: &[RING],
    help: "Of the lost records, those that the agent has read and not understood.",
};

/// Transitions of a namespace for whose live counters there is no room.
pub const UNTRACKED: Metric = Metric {
    name: "tcpstate_untracked_transitions_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Transitions in network namespaces for whose live counters there is no room: too many at \
           all, or more than 64 made since the last scrape or snapshot. The gauges of such a \
           namespace move with snapshots only. Also those since the last snapshot of a namespace \
           that was gone when another already lay in its place in memory: they may be of either.",
};

/// Transitions that were passed over.
pub const MISSED: Metric = Metric {
    name: "tcpstate_missed_transitions_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Transitions in an interrupt that came while the transition program ran on that CPU: \
           the kernel then passes the program over. They are in no other counter; the gauges are \
           put right by the next snapshot.",
};

/// Transitions that make no sense.
pub const UNKNOWN_STATES: Metric = Metric {
    name: "tcpstate_unknown_state_transitions_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Transitions of TCP sockets in a state or of an address family that this version does \
           not know. They are in no other metric.",
};

/// Duration of a snapshot.
pub const SNAPSHOT_DURATION: Metric = Metric {
    name: "tcpstate_snapshot_duration_seconds",
    kind: Kind::Gauge,
    labels: &[PASS],
    help: "How long the last pass took: sockets, to count all network namespaces; owners, to count \
           them and to find out who keeps sockets in CLOSE_WAIT; listeners, to read their queues \
           at this scrape.",
};

/// Age of the oldest snapshot in use.
pub const SNAPSHOT_AGE: Metric = Metric {
    name: "tcpstate_snapshot_age_seconds",
    kind: Kind::Gauge,
    labels: &[PASS],
    help: "sockets: time since the beginning of the last snapshot, which covers all network \
           namespaces; between snapshots the gauges move with every transition. owners: age of what \
           tcpstate_close_wait_sockets shows. listeners: 0, they are read at each scrape.",
};

/// Bound of the gauges' error.
pub const SNAPSHOT_UNCERTAIN: Metric = Metric {
    name: "tcpstate_snapshot_uncertain_sockets",
    kind: Kind::Gauge,
    labels: &[],
    help: "By how many sockets the gauges can be wrong in sum, because sockets moved while they \
           were being counted, or because transitions in their network namespace are not seen. \
           Half-open connections and minisockets have no transitions and are not in this bound: \
           their number is read at each scrape, and divided by kind as the last snapshot has found \
           them.",
};

/// Sockets that make no sense.
pub const UNKNOWN_SOCKETS: Metric = Metric {
    name: "tcpstate_unknown_sockets",
    kind: Kind::Gauge,
    labels: &[],
    help: "Sockets that the last snapshot has found in a state or of an address family that this \
           version does not know, or in a network namespace made meanwhile. They are in no other \
           metric.",
};

/// Network namespaces.
pub const NAMESPACES: Metric = Metric {
    name: "tcpstate_namespaces",
    kind: Kind::Gauge,
    labels: &[],
    help: "Network namespaces of the host, whether a process, a mount or only a socket keeps them. \
           All are in the gauges, one that is new from the next snapshot on.",
};

/// Chains that were read again.
pub const PASS_REDONE: Metric = Metric {
    name: "tcpstate_pass_redone_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Chains of the kernel's hash tables that changed while they were read, or were too long for \
           one run, and were read again by themselves.",
};

/// Chains that were not read.
pub const PASS_GIVEN_UP: Metric = Metric {
    name: "tcpstate_pass_given_up_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Chains of the kernel's hash tables that changed each time that they were read. Snapshots \
           with such chains are not used.",
};

/// Tables that were freed.
pub const PASS_FREED: Metric = Metric {
    name: "tcpstate_pass_freed_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Hash tables that the kernel freed with their network namespace while they were read.",
};

/// Namespaces of which the kernel says something else.
pub const PASS_MISMATCH: Metric = Metric {
    name: "tcpstate_pass_mismatch_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Times that a snapshot found another number of sockets in a network namespace than the \
           kernel's own counts say, by more than moved meanwhile. It is not used for that namespace \
           unless the one before disagreed too.",
};

/// Series that were folded.
pub const SERIES_FOLDED: Metric = Metric {
    name: "tcpstate_series_folded_total",
    kind: Kind::Counter,
    labels: &[Label {
        name: "metric",
        values: "`tcpstate_close_wait_sockets`, `tcpstate_listener_accept_queue`: each for all \
                 metrics with its labels; `tcpstate_time_wait_sockets`, \
                 `tcpstate_ephemeral_ports_used_ratio`",
    }],
    help: "Series that were added to the series `other` instead of being shown, summed over all \
           passes.",
};

/// Messages that are not in the log.
pub const LOG_DROPPED: Metric = Metric {
    name: "tcpstate_log_messages_dropped_total",
    kind: Kind::Counter,
    labels: &[Label {
        name: "reason",
        values: "`repeated`: five of its kind had been logged, and the log says each minute how many \
                 more there were; `not_read`: nobody read stderr in time",
    }],
    help: "Messages of the agent that are not in its log.",
};
