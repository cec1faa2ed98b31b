//! Sockets and their transitions.

use crate::exposition::catalogue::{Kind, Label, Metric};

const STATES: &str = "`listen`, `syn_sent`, `syn_recv`, `established`, `fin_wait1`, `fin_wait2`, \
                      `close_wait`, `closing`, `last_ack`, `time_wait`";
const STATES_AND_CLOSE: &str = "the states of `tcpstate_sockets`, and `close`";
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
    help: "TCP sockets by state, all network namespaces. Half-open connections are syn_recv, \
           minisockets are time_wait or fin_wait2.",
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
