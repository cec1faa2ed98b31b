//! Outgoing connections and the ports they take, and what is left of connections that were closed.

use crate::exposition::catalogue::{Kind, Label, Metric};

const DESTINATION: &[Label] = &[
    Label {
        name: "remote_address",
        values: "where they go; `other` for all destinations that have no series of their own",
    },
    Label {
        name: "remote_port",
        values: "the port there; empty for `other`",
    },
];

const fn gauge(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

/// TIME_WAIT by destination.
pub const TIME_WAIT: Metric = gauge(
    "tcpstate_time_wait_sockets",
    DESTINATION,
    "Outgoing connections in TIME_WAIT by destination, as the last snapshot has found them: \
     those on whose local port nothing of their network namespace listens. The destinations with \
     most of them (--destinations.top); other has the rest.",
);

/// Taken ports by destination.
pub const PORTS_USED: Metric = gauge(
    "tcpstate_ephemeral_ports_used_ratio",
    DESTINATION,
    "The part of the local ports for going there that is taken, by sockets in any state. At 1 \
     connect() fails with EADDRNOTAVAIL, unless tcp_tw_reuse lets it take over what is in \
     TIME_WAIT. The ports are net.ipv4.ip_local_port_range of the network namespace, less \
     ip_local_reserved_ports and less those that a socket was bound to, connected or not; of all \
     namespaces and local addresses the one with the greatest part counts. The destinations with \
     the greatest parts (--destinations.top); other has the greatest of the rest.",
);

/// Sockets without a place.
pub const UNPLACED: Metric = gauge(
    "tcpstate_unplaced_outgoing_sockets",
    &[],
    "Outgoing sockets whose destination had no room beside 16384 others of their network \
     namespace: those in TIME_WAIT are in the series other, the ports they take in no ratio. \
     Destinations with fewer than 16 sockets make room for others, so one that takes a good part \
     of the ports is known.",
);

/// Minisockets against their limit.
pub const BUCKETS_USED: Metric = gauge(
    "tcpstate_time_wait_buckets_used_ratio",
    &[],
    "The greatest part, over network namespaces, of the minisockets that tcp_max_tw_buckets of \
     that namespace allows, in TIME_WAIT and FIN_WAIT2. At 1 connections are closed without \
     TIME_WAIT, which tcpstate_time_wait_overflows_total counts.",
);

/// FIN_WAIT2 by what it is.
pub const FIN_WAIT2: Metric = gauge(
    "tcpstate_fin_wait2_sockets",
    &[Label {
        name: "kind",
        values: "`full`: full sockets, which a process has shut down and not closed, or that will \
                 be minisockets soon; `minisocket`: closed by their process, kept for \
                 tcp_fin_timeout at most",
    }],
    "The sockets of tcpstate_sockets in state fin_wait2, by what they are.",
);

/// Orphans.
pub const ORPHANS: Metric = gauge(
    "tcpstate_orphaned_sockets",
    &[],
    "Full sockets that no process has any more and that still have something to send or to wait \
     for, nearly all in FIN_WAIT1, LAST_ACK or CLOSING (orphan of /proc/net/sockstat). The kernel \
     has one count for the whole host, network namespaces or not. Beyond tcpstate_tcp_max_orphans, \
     and before that where one of them takes much memory, it resets them.",
);
