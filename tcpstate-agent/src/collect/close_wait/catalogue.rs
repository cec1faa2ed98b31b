//! Sockets in CLOSE_WAIT: whose, why, and since when.

use crate::{
    collect::owners::catalogue::{CONTAINER_ID, POD_UID, UNIT},
    exposition::catalogue::{Kind, Label, Metric},
};

const PROCESS: Label = Label {
    name: "process",
    values: "name of the process (comm of its first thread), of several owners the one with the \
             lowest number, and of those that hold a listening socket one that has connections of it; empty where no process holds the sockets; `other` for all that have no \
             series of their own",
};
const ROLE: Label = Label {
    name: "role",
    values: "`server`: something listens on the local port in that network namespace, or has; `client`",
};
const PORT: Label = Label {
    name: "port",
    values: "port of the service: for a server the local one, for a client the remote one; empty \
             for several together",
};
const CAUSE: Label = Label {
    name: "cause",
    values: "`unaccepted`: the process has not called accept(); `fin_unread`: it has not read since \
             the peer closed; `data_unread`: there is data that it has not read; `eof_read`: it has \
             read everything and not called close(); `sending`: it has read everything and still \
             sends to a peer that does not acknowledge",
};
const VERDICT: Label = Label {
    name: "verdict",
    values: "what is wrong, most likely: `stopped`, `descriptors_exhausted`, `queue_of_dead`, \
             `blocked_accept`, `inherited`, `draining`, `send_blocked`, `half_close`, `proxy_waits`, \
             `in_service`, `idle_pool`, `unread_response`, `stuck_consumer`, `leak`, or `other`, as \
             [diagnosis.md](diagnosis.md#the-verdicts) explains them",
};
const GROUP: &[Label] = &[PROCESS, UNIT, CONTAINER_ID, POD_UID, ROLE, PORT, CAUSE];
const OWNER: &[Label] = &[PROCESS, UNIT, CONTAINER_ID, POD_UID];
/// How many.
pub const SOCKETS: Metric = Metric {
    name: "tcpstate_close_wait_sockets",
    kind: Kind::Gauge,
    labels: GROUP,
    help: "Sockets in CLOSE_WAIT by who keeps them there and why. Where no process holds them, unit, \
           container_id and pod_uid are those of whoever made them, if that is known. The sum is \
           that of tcpstate_sockets in the snapshot in which owners were last looked for.",
};

/// The oldest.
pub const OLDEST_AGE: Metric = Metric {
    name: "tcpstate_close_wait_oldest_age_seconds",
    kind: Kind::Gauge,
    labels: GROUP,
    help: "For how long the oldest of these sockets has been in CLOSE_WAIT. For one whose beginning \
           was not seen, a lower bound: the time since the peer last acknowledged anything.",
};

/// Ages that are not exact.
pub const LOWER_BOUND: Metric = Metric {
    name: "tcpstate_close_wait_age_lower_bound_sockets",
    kind: Kind::Gauge,
    labels: GROUP,
    help: "Of these sockets, how many may have been in CLOSE_WAIT for longer than known: they were \
           there before the agent, or had to make room for others.",
};

/// What was not read.
pub const UNREAD_BYTES: Metric = Metric {
    name: "tcpstate_close_wait_unread_bytes",
    kind: Kind::Gauge,
    labels: GROUP,
    help: "Data that came in on these sockets before the peer closed and was not read.",
};

/// What the peers have not acknowledged.
pub const UNACKNOWLEDGED_BYTES: Metric = Metric {
    name: "tcpstate_close_wait_unacknowledged_bytes",
    kind: Kind::Gauge,
    labels: GROUP,
    help: "Data that the process has written to these sockets and the peers have not acknowledged.",
};

/// What is wrong.
pub const VERDICT_SOCKETS: Metric = Metric {
    name: "tcpstate_close_wait_verdict_sockets",
    kind: Kind::Gauge,
    labels: &[PROCESS, UNIT, CONTAINER_ID, POD_UID, ROLE, PORT, VERDICT],
    help: "The sockets of tcpstate_close_wait_sockets by what is wrong with them, most likely.",
};

/// Ages of all.
pub const AGE_SOCKETS: Metric = Metric {
    name: "tcpstate_close_wait_age_sockets",
    kind: Kind::Gauge,
    labels: &[Label {
        name: "older_than",
        values: "`1`, `10`, `60`, `600`, `3600`, `86400`: seconds",
    }],
    help: "Sockets that have been in CLOSE_WAIT for at least so long.",
};

/// Descriptors in use.
pub const OPEN_FDS: Metric = Metric {
    name: "tcpstate_owner_open_fds",
    kind: Kind::Gauge,
    labels: OWNER,
    help: "Open file descriptors of a process that tcpstate_close_wait_sockets shows; of several \
           processes with equal labels, of the one that has the fewest left.",
};

/// Descriptors that may be in use.
pub const MAX_FDS: Metric = Metric {
    name: "tcpstate_owner_max_fds",
    kind: Kind::Gauge,
    labels: OWNER,
    help: "File descriptors that this process may have open (soft limit). Absent where it is \
           unlimited.",
};
