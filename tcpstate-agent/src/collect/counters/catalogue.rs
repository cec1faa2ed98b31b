//! The kernel's own counters and limits.

use crate::exposition::catalogue::{Kind, Label, Metric};

const fn counter(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn limit(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        labels: &[],
        help,
    }
}

/// Accept queues that were full.
pub const LISTEN_OVERFLOWS: Metric = counter(
    "tcpstate_listen_overflows_total",
    &[],
    "How often a SYN, or the ACK that ends a handshake, came to a listener whose accept queue was \
     full (ListenOverflows): its process does not accept() fast enough, or the backlog is too \
     small. All network namespaces.",
);

/// Handshakes that a listener did not go on with.
pub const LISTEN_DROPS: Metric = counter(
    "tcpstate_listen_drops_total",
    &[],
    "SYNs and final ACKs that a listener dropped, for whatever reason (ListenDrops): what is in \
     tcpstate_listen_overflows_total, and a full SYN queue, lack of memory, no route back. The \
     client sends again, a second later at first.",
);

/// SYNs for which there was no room.
pub const SYN_QUEUE_FULL_DROPS: Metric = counter(
    "tcpstate_syn_queue_full_drops_total",
    &[],
    "SYNs dropped because the listener's SYN queue was full, and tcpstate_tcp_syncookies is 0 \
     (TCPReqQFullDrop): a SYN flood, or SYN-ACKs that do not reach the clients. Those dropped \
     because three quarters of tcp_max_syn_backlog were taken are in tcpstate_listen_drops_total \
     alone.",
);

/// SYNs that were answered without room.
pub const SYN_QUEUE_FULL_COOKIES: Metric = counter(
    "tcpstate_syn_queue_full_cookies_total",
    &[],
    "SYNs that were to be answered with a cookie because the listener's SYN queue was full \
     (TCPReqQFullDoCookies). Where tcpstate_tcp_syncookies is 2, every SYN.",
);

/// Cookies.
pub const SYNCOOKIES: Metric = counter(
    "tcpstate_syncookies_total",
    &[Label {
        name: "result",
        values: "`sent`: SYN-ACKs with a cookie (SyncookiesSent); `received`: ACKs that brought a \
                 valid one back, each a client that is real (SyncookiesRecv); `failed`: ACKs whose \
                 cookie is wrong or too old, or that belong to no connection (SyncookiesFailed)",
    }],
    "SYN cookies, by what became of them. Many sent and few received is a flood with false \
     addresses.",
);

/// Connections without TIME_WAIT.
pub const TIME_WAIT_OVERFLOWS: Metric = counter(
    "tcpstate_time_wait_overflows_total",
    &[],
    "Connections that were closed without TIME_WAIT, or FIN_WAIT2, because there are as many as \
     tcp_max_tw_buckets allows or there is no memory (TCPTimeWaitOverflow).",
);

/// Connections that were given up.
pub const ABORTS: Metric = counter(
    "tcpstate_aborts_total",
    &[Label {
        name: "reason",
        values: "`data`: closed with SO_LINGER 0, or data came after the process had closed \
                 (TCPAbortOnData); `close`: the process closed and left data unread \
                 (TCPAbortOnClose); `memory`: no memory, or too many sockets without a process \
                 (TCPAbortOnMemory); `timeout`: the peer does not answer any more \
                 (TCPAbortOnTimeout); `linger`: FIN_WAIT2 cut short by TCP_LINGER2 \
                 (TCPAbortOnLinger); `failed`: no memory for the reset that was to tell the peer, \
                 which comes on top of another reason (TCPAbortFailed)",
    }],
    "Connections that this host ended without the proper close, by why. All network namespaces.",
);

/// Resets.
pub const SEGMENTS_SENT_RST: Metric = counter(
    "tcpstate_segments_sent_rst_total",
    &[],
    "Segments with RST that this host sent (OutRsts): the answer to what came for a port where \
     nothing listens or for a connection that is gone, and connections cut off by this host.",
);

/// The switch for cookies.
pub const SYNCOOKIES_MODE: Metric = limit(
    "tcpstate_tcp_syncookies",
    "net.ipv4.tcp_syncookies of the agent's own network namespace: 0, never; 1, when a SYN queue \
     is full; 2, always.",
);

/// The limit of accept queues.
pub const SOMAXCONN: Metric = limit(
    "tcpstate_somaxconn",
    "net.core.somaxconn of the agent's own network namespace: the longest accept queue that a \
     process gets, whatever backlog it asks for.",
);

/// The limit of SYN queues.
pub const MAX_SYN_BACKLOG: Metric = limit(
    "tcpstate_tcp_max_syn_backlog",
    "net.ipv4.tcp_max_syn_backlog of the agent's own network namespace: how many half-open \
     connections a listener may have. Used where there are no SYN cookies; a quarter is kept for \
     clients that are known.",
);

/// How long a half-open connection is kept.
pub const SYNACK_RETRIES: Metric = limit(
    "tcpstate_tcp_synack_retries",
    "net.ipv4.tcp_synack_retries of the agent's own network namespace: how often a SYN-ACK is sent \
     again before the half-open connection is given up. 5 is a minute.",
);

/// The limit of minisockets.
pub const MAX_TW_BUCKETS: Metric = limit(
    "tcpstate_tcp_max_tw_buckets",
    "net.ipv4.tcp_max_tw_buckets of the agent's own network namespace: how many sockets it may have \
     in TIME_WAIT, with those in FIN_WAIT2 that no process has any more. Each namespace has its \
     own; tcpstate_time_wait_buckets_used_ratio relates each to its own.",
);

/// The limit of orphans.
pub const MAX_ORPHANS: Metric = limit(
    "tcpstate_tcp_max_orphans",
    "net.ipv4.tcp_max_orphans: how many sockets without a process the whole host may have, see \
     tcpstate_orphaned_sockets. Absent where the agent is not in the first network namespace, \
     which alone shows it.",
);
