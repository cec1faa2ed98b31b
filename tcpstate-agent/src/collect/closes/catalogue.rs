//! How connections end, how long each step of it takes, and resets.

use crate::exposition::catalogue::{Kind, Label, Metric};

const STATE: Label = Label {
    name: "state",
    values: "`syn_sent`, `fin_wait1`, `fin_wait2`, `close_wait`, `closing`, `last_ack`",
};

/// Why connections ended.
pub const CLOSES: Metric = Metric {
    name: "tcpstate_closes_total",
    kind: Kind::Counter,
    labels: &[Label {
        name: "reason",
        values: "`local_fin`: this side closed first; `remote_fin`: the peer closed first; \
                 `simultaneous`: both at once; `reset_received`: the peer reset it; `reset_sent`: \
                 this host reset it, because data came after the process had closed; `aborted`: \
                 this side cut it off, by SO_LINGER 0, TCP_LINGER2 below 0, close() with unread \
                 data, connect(AF_UNSPEC), closing a listener before accept(), `ss -K`, or for too \
                 many orphans; `timeout`: the peer did not answer retransmissions or keepalives; \
                 `connect_refused`: a reset answered the SYN, or ICMP's port unreachable; \
                 `connect_timeout`: nothing did; \
                 `connect_reset`: a reset came in the middle of a simultaneous open; \
                 `connect_abandoned`: the process gave up connecting; `connect_no_port`: no local \
                 port was free; `handshake_failed`: a connection that a listener had begun to take \
                 did not come about; `other`: any other error, such as no route while connecting",
    }],
    help: "Connections whose full socket ended, by how. Where both ends are on this host, both \
           count. The sum is that of tcpstate_transitions_total to close without that from listen: \
           the end of a listener is none of a connection. A half-open connection that is given up \
           has no full socket.",
};

/// FIN and ACK in one segment or in two.
pub const CLOSE_SEGMENTS: Metric = Metric {
    name: "tcpstate_close_segments_total",
    kind: Kind::Counter,
    labels: &[Label {
        name: "segments",
        values: "`3`: the peer's FIN came in the segment that acknowledged this side's; `4`: that \
                 segment had no FIN, which came later or is still to come",
    }],
    help: "Connections that this side closed first, by how many segments the close takes. Those \
           that the peer closed first are not in it: when this side acknowledges the peer's FIN is \
           not seen.",
};

/// Time in the state.
pub const STATE_DURATION: Metric = Metric {
    name: "tcpstate_state_duration_seconds",
    kind: Kind::Histogram,
    labels: &[STATE],
    help: "Time that sockets spent in a state, observed when they leave it. fin_wait2 only where \
           the peer's FIN ended it: see tcpstate_fin_wait2_orphaned_total.",
};

/// Times that are not known.
pub const DURATION_UNKNOWN: Metric = Metric {
    name: "tcpstate_state_duration_unknown_total",
    kind: Kind::Counter,
    labels: &[STATE],
    help: "Sockets that left the state and are not in tcpstate_state_duration_seconds: they were in \
           it before the agent, or had to make room for others.",
};

/// Beginnings that made room.
pub const DURATION_DISPLACED: Metric = Metric {
    name: "tcpstate_state_duration_displaced_total",
    kind: Kind::Counter,
    labels: &[STATE],
    help: "Sockets that came into the state and for whose beginning that of another was forgotten. \
           The table for close_wait holds half a million, the one for all other states 131,072.",
};

/// Sockets that the kernel let go of.
pub const FIN_WAIT2_ORPHANED: Metric = Metric {
    name: "tcpstate_fin_wait2_orphaned_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Full sockets that left FIN_WAIT2 before the peer's FIN came, because the process had \
           closed: a minisocket waits for it instead, for net.ipv4.tcp_fin_timeout at most. How \
           long it waits is not seen.",
};

/// Resets.
pub const RESETS: Metric = Metric {
    name: "tcpstate_resets_total",
    kind: Kind::Counter,
    labels: &[
        Label {
            name: "direction",
            values: "`sent`, `received`",
        },
        Label {
            name: "reason",
            values: "why this host sent it, as the kernel calls it (`enum sk_rst_reason`, in lower \
                     case and without its prefix; Linux 6.11), for instance `no_socket`, \
                     `tcp_abort_on_data`, `tcp_abort_on_close`; `unknown` where it does not say, as \
                     on older kernels and for every one that is received",
        },
    ],
    help: "Resets, from the tracepoints tcp_send_reset and tcp_receive_reset. Those that answer \
           what no socket wants are seen since Linux 6.11; tcpstate_segments_sent_rst_total has \
           them on every kernel. Received are those that ended a connection.",
};
