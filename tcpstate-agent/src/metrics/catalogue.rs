//! Every metric of the agent's own: name, type, labels, meaning. docs/metrics.md is made of this.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises, and starts at 0 with the agent.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// As the exposition format spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A label and what its values are.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it can be.
    pub values: &'static str,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels, in the order in which series give their values.
    pub labels: &'static [Label],
    /// The HELP line.
    pub help: &'static str,
}

const STATES: &str = "`listen`, `syn_sent`, `syn_recv`, `established`, `fin_wait1`, `fin_wait2`, \
                      `close_wait`, `closing`, `last_ack`, `time_wait`";
const STATES_AND_CLOSE: &str = "the states of `tcpstate_sockets`, and `close`";
const PASS: Label = Label {
    name: "pass",
    values: "`sockets`",
};
const RING: Label = Label {
    name: "ring",
    values: "`transitions`",
};

/// TCP sockets by family and state.
pub const SOCKETS: Metric = Metric {
    name: "tcpstate_sockets",
    kind: Kind::Gauge,
    labels: &[
        Label {
            name: "family",
            values: "`ipv4`, `ipv6`; a dual-stack socket that speaks IPv4 is `ipv6`, as in `ss -6`",
        },
        Label {
            name: "state",
            values: STATES,
        },
    ],
    help: "TCP sockets by state, all network namespaces that could be counted. Half-open \
           connections are syn_recv, minisockets are time_wait or fin_wait2.",
};

/// State transitions.
pub const TRANSITIONS: Metric = Metric {
    name: "tcpstate_transitions_total",
    kind: Kind::Counter,
    labels: &[
        Label {
            name: "from",
            values: STATES_AND_CLOSE,
        },
        Label {
            name: "to",
            values: STATES_AND_CLOSE,
        },
    ],
    help: "Changes of state of TCP sockets (inet_sock_set_state), all network namespaces. A \
           connection accepted by a listener starts with listen to syn_recv when its third ACK \
           comes; a connection that goes to time_wait ends with close.",
};

/// Version of the agent.
pub const BUILD_INFO: Metric = Metric {
    name: "tcpstate_build_info",
    kind: Kind::Gauge,
    labels: &[Label {
        name: "version",
        values: "version of the agent",
    }],
    help: "Always 1; the labels tell which agent this is.",
};

/// Whether each eBPF program runs.
pub const PROGRAM_UP: Metric = Metric {
    name: "tcpstate_program_up",
    kind: Kind::Gauge,
    labels: &[Label {
        name: "program",
        values: "`tcp_transition` (transitions, and gauges that move with them), `tcp_count` \
                 (sockets by state)",
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

/// Transitions of a namespace without live counters.
pub const UNTRACKED: Metric = Metric {
    name: "tcpstate_untracked_transitions_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Transitions in network namespaces without live counters: not found yet, not to be \
           found, or too many. The gauges of such a namespace move with snapshots only.",
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
    help: "How long it takes to count all network namespaces once, by the last snapshot of each.",
};

/// Age of the oldest snapshot in use.
pub const SNAPSHOT_AGE: Metric = Metric {
    name: "tcpstate_snapshot_age_seconds",
    kind: Kind::Gauge,
    labels: &[PASS],
    help: "Age of the oldest snapshot that the gauges rest on. Between snapshots they move with \
           every transition.",
};

/// Bound of the gauges' error.
pub const SNAPSHOT_UNCERTAIN: Metric = Metric {
    name: "tcpstate_snapshot_uncertain_sockets",
    kind: Kind::Gauge,
    labels: &[],
    help: "By how many sockets the gauges can be wrong in sum, because sockets moved while they \
           were being counted, or because transitions in their network namespace are not seen. \
           Half-open connections and the two kinds of minisockets have no transitions: they are \
           as old as the snapshot and not in this bound.",
};

/// Sockets that make no sense.
pub const UNKNOWN_SOCKETS: Metric = Metric {
    name: "tcpstate_unknown_sockets",
    kind: Kind::Gauge,
    labels: &[],
    help: "Sockets in a state or of an address family that this version does not know. They are \
           in no other metric.",
};

/// Network namespaces.
pub const NAMESPACES: Metric = Metric {
    name: "tcpstate_namespaces",
    kind: Kind::Gauge,
    labels: &[Label {
        name: "result",
        values: "`counted`; `denied`: the agent may not enter; `unreachable`: nothing leads there, \
                 counting failed, or is still to come",
    }],
    help: "Network namespaces of the host. Only those that are counted are in the gauges.",
};

/// Every metric, in the order of the reference.
pub const ALL: [&Metric; 16] = [
    &SOCKETS,
    &TRANSITIONS,
    &BUILD_INFO,
    &PROGRAM_UP,
    &EVENTS,
    &EVENTS_DECODED,
    &EVENTS_LOST,
    &EVENTS_MALFORMED,
    &UNTRACKED,
    &MISSED,
    &UNKNOWN_STATES,
    &SNAPSHOT_DURATION,
    &SNAPSHOT_AGE,
    &SNAPSHOT_UNCERTAIN,
    &UNKNOWN_SOCKETS,
    &NAMESPACES,
];

/// The metrics reference, docs/metrics.md.
#[must_use]
pub fn reference() -> String {
    use std::fmt::Write as _;

    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Generated from tcpstate-agent/src/metrics/catalogue.rs: cargo xtask docs -->\n\n\
         What `/metrics` shows. Counters start at 0 when the agent starts. A metric whose eBPF \
         program cannot run is absent, and `tcpstate_program_up` says so. `process_*` are the \
         usual metrics of the agent's own process.\n",
    );
    for metric in ALL {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n## `{}`\n\n{}. {}\n",
            metric.name,
            capitalized(metric.kind.name()),
            metric.help
        );
        if !metric.labels.is_empty() {
            text.push_str("\n| label | values |\n| --- | --- |\n");
            for label in metric.labels {
                let _ = writeln!(text, "| `{}` | {} |", label.name, label.values);
            }
        }
    }
    text.push_str(
        "\n## Zero and absent series\n\n\
         `tcpstate_sockets` has all 20 series at all times. `tcpstate_transitions_total` has a \
         series for every pair of states that the kernel can produce, from the start; another \
         pair appears should it ever occur.\n",
    );
    text
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
