//! Listening sockets: their queues, half-open connections, and handshakes.

use crate::{
    collect::owners::catalogue::{CONTAINER_ID, POD_UID, UNIT},
    exposition::catalogue::{Kind, Label, Metric},
};

const PROCESS: Label = Label {
    name: "process",
    values: "name of the process (comm of its first thread), of several owners the one with the \
             lowest number, but one that has connections of it where any is seen to; empty where no \
             process holds the socket; `other` for all listeners that \
             have no series of their own",
};
const ADDRESS: Label = Label {
    name: "address",
    values: "address that is listened on, `0.0.0.0` or `::` for any; empty for several together",
};
const PORT: Label = Label {
    name: "port",
    values: "port that is listened on; empty for several together",
};
const KIND: Label = Label {
    name: "kind",
    values: "`waiting`: for the third ACK; `deferred`: for the first data, because the listener \
             uses TCP_DEFER_ACCEPT; `accept_queue_full`: the third ACK came and found no room",
};
const STATE: Label = Label {
    name: "state",
    values: "`syn_recv`, `established`, `fin_wait1`, `fin_wait2`, `close_wait`, `closing`, \
             `last_ack`, `time_wait`",
};
const ROLE: Label = Label {
    name: "role",
    values: "`client`: SYN to SYN-ACK; `server`: SYN-ACK to the third ACK",
};
const LISTENER: &[Label] = &[PROCESS, UNIT, CONTAINER_ID, POD_UID, ADDRESS, PORT];

/// Waiting to be accepted.
pub const ACCEPT_QUEUE: Metric = Metric {
    name: "tcpstate_listener_accept_queue",
    kind: Kind::Gauge,
    labels: LISTENER,
    help: "Established connections that the process has not accepted yet. Read at each scrape.",
};

/// Room for them.
pub const ACCEPT_QUEUE_LIMIT: Metric = Metric {
    name: "tcpstate_listener_accept_queue_limit",
    kind: Kind::Gauge,
    labels: LISTENER,
    help: "How many connections may wait to be accepted: what listen() was given, at most \
           net.core.somaxconn; of several sockets (SO_REUSEPORT) the sum. A queue is full with one \
           more than its limit.",
};

/// The fullest queue.
pub const ACCEPT_QUEUE_WORST: Metric = Metric {
    name: "tcpstate_listener_accept_queue_worst",
    kind: Kind::Gauge,
    labels: LISTENER,
    help: "Connections that wait to be accepted at the one socket whose queue is fullest by its own \
           limit. Of several sockets (SO_REUSEPORT) one can be stuck while the others are empty.",
};

/// Room for half-open ones.
pub const SYN_QUEUE_LIMIT: Metric = Metric {
    name: "tcpstate_listener_syn_queue_limit",
    kind: Kind::Gauge,
    labels: LISTENER,
    help: "How many connections may be half open: the limit of the accept queue, and without SYN \
           cookies three quarters of net.ipv4.tcp_max_syn_backlog if that is less. Newer \
           kernels take one more.",
};

/// Half-open ones.
pub const SYN_RECV: Metric = Metric {
    name: "tcpstate_listener_syn_recv",
    kind: Kind::Gauge,
    labels: &[PROCESS, UNIT, CONTAINER_ID, POD_UID, ADDRESS, PORT, KIND],
    help: "Half-open connections by what they wait for. Their number is read at each scrape, and \
           divided by kind as the last snapshot has found them.",
};

/// Connections.
pub const SOCKETS: Metric = Metric {
    name: "tcpstate_listener_sockets",
    kind: Kind::Gauge,
    labels: &[PROCESS, UNIT, CONTAINER_ID, POD_UID, ADDRESS, PORT, STATE],
    help: "Connections that belong to a listener by state, as the last snapshot has found them. \
           Connections of an address that several processes listen on are in one series.",
};

/// Dropped.
pub const DROPS: Metric = Metric {
    name: "tcpstate_listener_drops_total",
    kind: Kind::Counter,
    labels: LISTENER,
    help: "What the listening socket has dropped (sk_drops): mostly SYNs and third ACKs that found \
           a full queue, but also the bare ACKs of TCP_DEFER_ACCEPT and segments that make no \
           sense.",
};

/// SYN-ACKs sent again.
pub const SYNACK_RETRANSMITS: Metric = Metric {
    name: "tcpstate_synack_retransmits_total",
    kind: Kind::Counter,
    labels: LISTENER,
    help: "SYN-ACKs that were sent again because the third ACK did not come, or a SYN came again. \
           Counted for the 4096 listening sockets at which that happened last.",
};

/// Ages of half-open ones.
pub const SYN_RECV_AGE: Metric = Metric {
    name: "tcpstate_syn_recv_age_sockets",
    kind: Kind::Gauge,
    labels: &[Label {
        name: "older_than",
        values: "`1`, `3`, `7`, `15`, `31`, `63`: seconds after the first SYN-ACK at which the \
                 kernel sends it again by default; after the last it gives up",
    }],
    help: "Half-open connections that have been so for at least so long, as the last snapshot has \
           found them.",
};

/// Retransmits of half-open ones.
pub const SYN_RECV_RETRANSMITS: Metric = Metric {
    name: "tcpstate_syn_recv_retransmits_sockets",
    kind: Kind::Gauge,
    labels: &[Label {
        name: "at_least",
        values: "`1` to `5`: SYN-ACKs sent again",
    }],
    help: "Half-open connections whose SYN-ACK was sent again at least so often, as the last \
           snapshot has found them.",
};

/// Round trips.
pub const HANDSHAKE_DURATION: Metric = Metric {
    name: "tcpstate_handshake_duration_seconds",
    kind: Kind::Histogram,
    labels: &[ROLE],
    help: "Round trip of the handshake as the kernel has measured it, of connections that became \
           established without a retransmission.",
};

/// Handshakes with retransmissions.
pub const HANDSHAKE_RETRANSMITTED: Metric = Metric {
    name: "tcpstate_handshake_retransmitted_total",
    kind: Kind::Counter,
    labels: &[ROLE],
    help: "Connections that became established after a segment of the handshake was sent again. \
           They are not in tcpstate_handshake_duration_seconds.",
};

/// Handshakes without a time.
pub const HANDSHAKE_UNMEASURED: Metric = Metric {
    name: "tcpstate_handshake_unmeasured_total",
    kind: Kind::Counter,
    labels: &[ROLE],
    help: "Connections that became established and whose handshake the kernel did not measure: \
           SYN cookies, and third ACKs that came with data, as to listeners that use \
           TCP_DEFER_ACCEPT, or after one that was lost or found a full accept queue. They are not \
           in tcpstate_handshake_duration_seconds.",
};
