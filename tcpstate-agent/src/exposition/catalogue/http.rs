//! The HTTP server about itself.

use super::{Kind, Label, Metric};

/// Scrapes that were answered.
pub const SCRAPES: Metric = Metric {
    name: "promhttp_metric_handler_requests_total",
    kind: Kind::Counter,
    labels: &[Label {
        name: "code",
        values: "`200`, `500`, `503`",
    }],
    help: "Total number of scrapes by HTTP status code.",
};

/// Scrapes that are being answered.
pub const SCRAPES_IN_FLIGHT: Metric = Metric {
    name: "promhttp_metric_handler_requests_in_flight",
    kind: Kind::Gauge,
    labels: &[],
    help: "Current number of scrapes being served.",
};

/// Open connections.
pub const CONNECTIONS: Metric = Metric {
    name: "tcpstate_http_connections",
    kind: Kind::Gauge,
    labels: &[],
    help: "Connections to the agent's HTTP server that are open.",
};

/// Accepted connections.
pub const ACCEPTED: Metric = Metric {
    name: "tcpstate_http_connections_accepted_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Connections that the HTTP server has accepted.",
};

/// Connections that could not be accepted.
pub const ACCEPT_ERRORS: Metric = Metric {
    name: "tcpstate_http_accept_errors_total",
    kind: Kind::Counter,
    labels: &[],
    help: "How often accepting a connection failed, for want of a descriptor for instance.",
};

/// Connections that the server ended.
pub const DROPPED: Metric = Metric {
    name: "tcpstate_http_connections_dropped_total",
    kind: Kind::Counter,
    labels: &[Label {
        name: "reason",
        values: "`limit`: there were too many, and its source address had more than an equal \
                 share; `source_limit`: its source address had half of all; `request_timeout`: it \
                 did not send a request in time; `answer_timeout`: it did not read an answer in \
                 time; `idle`: it sent no further request; `unread_bytes`: answers that are not \
                 read held too much memory; `descriptors`: the agent had none left; `handshake`: \
                 no TLS connection came about",
    }],
    help: "Connections that the HTTP server has ended.",
};

/// Requests that were refused.
pub const REFUSED: Metric = Metric {
    name: "tcpstate_http_requests_refused_total",
    kind: Kind::Counter,
    labels: &[Label {
        name: "reason",
        values: "`malformed`: it made no sense; `headers_too_large`; `not_tls`: plain HTTP where \
                 TLS is spoken; `unauthorized`: no login, or a wrong one; `rate_limited`: more \
                 than `rate_limit` allows; `config`: the web configuration file cannot be used; \
                 `busy`: more than `--web.max-requests`",
    }],
    help: "Requests that the HTTP server has refused.",
};
