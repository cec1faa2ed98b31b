//! Every metric of the agent's own: name, type, labels, meaning. docs/metrics.md is made of this.

pub mod http;
pub mod own;

use crate::collect::{
    close_wait::catalogue as close_wait, closes::catalogue as closes,
    counters::catalogue as kernel, listeners::catalogue as listeners,
    outgoing::catalogue as outgoing, segments::catalogue as segments,
    sockets::catalogue as sockets,
};

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises, and starts at 0 with the agent.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Observations in buckets, which only rise.
    Histogram,
}

impl Kind {
    /// As the exposition format spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
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

/// Every metric, in the order of the reference.
pub const ALL: [&Metric; 82] = [
    &sockets::SOCKETS,
    &sockets::TRANSITIONS,
    &close_wait::SOCKETS,
    &close_wait::OLDEST_AGE,
    &close_wait::LOWER_BOUND,
    &close_wait::UNREAD_BYTES,
    &close_wait::UNACKNOWLEDGED_BYTES,
    &close_wait::VERDICT_SOCKETS,
    &close_wait::AGE_SOCKETS,
    &close_wait::OPEN_FDS,
    &close_wait::MAX_FDS,
    &closes::CLOSES,
    &closes::CLOSE_SEGMENTS,
    &closes::STATE_DURATION,
    &closes::DURATION_UNKNOWN,
    &closes::DURATION_DISPLACED,
    &closes::FIN_WAIT2_ORPHANED,
    &closes::RESETS,
    &listeners::ACCEPT_QUEUE,
    &listeners::ACCEPT_QUEUE_LIMIT,
    &listeners::ACCEPT_QUEUE_WORST,
    &listeners::SYN_QUEUE_LIMIT,
    &listeners::SYN_RECV,
    &listeners::SOCKETS,
    &listeners::DROPS,
    &listeners::SYNACK_RETRANSMITS,
    &listeners::SYN_RECV_AGE,
    &listeners::SYN_RECV_RETRANSMITS,
    &listeners::HANDSHAKE_DURATION,
    &listeners::HANDSHAKE_RETRANSMITTED,
    &listeners::HANDSHAKE_UNMEASURED,
    &outgoing::TIME_WAIT,
    &outgoing::PORTS_USED,
    &outgoing::UNPLACED,
    &outgoing::BUCKETS_USED,
    &outgoing::FIN_WAIT2,
    &outgoing::ORPHANS,
    &kernel::LISTEN_OVERFLOWS,
    &kernel::LISTEN_DROPS,
    &kernel::SYN_QUEUE_FULL_DROPS,
    &kernel::SYN_QUEUE_FULL_COOKIES,
    &kernel::SYNCOOKIES,
    &kernel::TIME_WAIT_OVERFLOWS,
    &kernel::ABORTS,
    &kernel::SEGMENTS_SENT_RST,
    &kernel::SYNCOOKIES_MODE,
    &kernel::SOMAXCONN,
    &kernel::MAX_SYN_BACKLOG,
    &kernel::SYNACK_RETRIES,
    &kernel::MAX_TW_BUCKETS,
    &kernel::MAX_ORPHANS,
    &segments::SEGMENTS,
    &segments::ANOMALOUS,
    &segments::SKIPPED,
    &own::BUILD_INFO,
    &own::PROGRAM_UP,
    &own::SOURCE_UP,
    &own::EVENTS,
    &own::EVENTS_DECODED,
    &own::EVENTS_LOST,
    &own::EVENTS_MALFORMED,
    &own::UNTRACKED,
    &own::MISSED,
    &own::UNKNOWN_STATES,
    &own::SNAPSHOT_DURATION,
    &own::SNAPSHOT_AGE,
    &own::SNAPSHOT_UNCERTAIN,
    &own::UNKNOWN_SOCKETS,
    &own::NAMESPACES,
    &own::PASS_REDONE,
    &own::PASS_GIVEN_UP,
    &own::PASS_FREED,
    &own::PASS_MISMATCH,
    &own::SERIES_FOLDED,
    &own::LOG_DROPPED,
    &http::CONNECTIONS,
    &http::ACCEPTED,
    &http::ACCEPT_ERRORS,
    &http::DROPPED,
    &http::REFUSED,
    &http::SCRAPES,
    &http::SCRAPES_IN_FLIGHT,
];

/// The metrics reference, docs/metrics.md.
#[must_use]
pub fn reference() -> String {
    use std::fmt::Write as _;

    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Generated from the catalogues in tcpstate-agent/src/: cargo xtask docs -->\n\n\
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
        "\n## How many series there can be\n\n\
         Labels of processes, units, containers, pods, ports and destinations are chosen by whoever \
         uses the host. The series of a set of such labels are charged all at once when it is first \
         shown: 17 for a listener, 6 for sockets in CLOSE_WAIT of one owner, service and cause, 1 for \
         each metric of a destination. There is room for `--series.burst` of them, 10,000, and for \
         `--series.per-hour` more in each hour, 500: so on the worst day, whatever is done on the host, \
         there are 10,000 + 24 × 500 = 22,000 new series, and 12,000 on each day after it. What there is \
         no room for is added to the series `other`, the agent says so once in its log, and \
         `tcpstate_series_folded_total` counts it. Labels that were shown within the last three hours \
         cost nothing to be shown again. What `--services.always` names comes before all others, and has \
         a reserve of its own: 2,000, and 100 more in each hour.\n\n\
         A process that has lived for 10 seconds keeps its labels to its end, whatever it calls itself and \
         wherever it is moved. A listener whose port the kernel chose, because the process asked for any, \
         is in the series `other` until its accept queue is full, it drops something, or sends a SYN-ACK \
         again. `tcpstate_listener_syn_recv` and `tcpstate_listener_sockets` have no series for kinds and \
         states that a listener has never had. `--labels.disable` leaves out labels of owners.\n\
         \n## Zero and absent series\n\n\
         `tcpstate_sockets` has all 20 series at all times. `tcpstate_transitions_total` has a \
         series for every pair of states that the kernel can produce, from the start; another \
         pair appears should it ever occur. So have `tcpstate_closes_total` for every reason and \
         `tcpstate_resets_total` for every one that the kernel knows. `tcpstate_close_wait_age_sockets` has all its series at \
         all times; the other metrics of sockets in CLOSE_WAIT have none where there are no such \
         sockets. A counter of the kernel's own has no series where the kernel does not have it, a \
         limit none where it cannot be read. The metrics of segments are there where \
         `--segments.device` asks for them: flags that have not occurred have no series, but for \
         SYN, SYN-ACK, ACK, PSH-ACK, FIN-ACK, RST and RST-ACK, and an interface has none while it \
         is gone.\n",
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
