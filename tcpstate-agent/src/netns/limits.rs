//! The limits that the kernel sets to handshakes and to what is left of connections in one
//! namespace, `/proc/sys/net`.

use std::fs;

/// Limits of a network namespace. `None` where one cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `tcp_syncookies`: 0 never, 1 when a SYN queue is full, 2 always.
    pub syncookies: Option<u64>,
    /// `somaxconn`: what no accept queue is longer than, whatever `listen()` asks for.
    pub somaxconn: Option<u64>,
    /// `tcp_max_syn_backlog`: half-open connections of a listener beyond which those are refused,
    /// without syncookies, whose peer is not known.
    pub max_syn_backlog: Option<u64>,
    /// `tcp_synack_retries`: how often a SYN-ACK is sent again.
    pub synack_retries: Option<u64>,
    /// `tcp_max_tw_buckets`: how many minisockets there may be.
    pub max_tw_buckets: Option<u64>,
    /// `tcp_max_orphans`: how many sockets without a process there may be on the whole host. Only
    /// the first network namespace shows it.
    pub max_orphans: Option<u64>,
}

impl Limits {
    /// Reads the limits of the namespace that the calling thread is in.
    #[must_use]
    pub fn read() -> Self {
        Self {
            syncookies: read("ipv4/tcp_syncookies"),
            somaxconn: read("core/somaxconn"),
            max_syn_backlog: read("ipv4/tcp_max_syn_backlog"),
            synack_retries: read("ipv4/tcp_synack_retries"),
            max_tw_buckets: read("ipv4/tcp_max_tw_buckets"),
            max_orphans: read("ipv4/tcp_max_orphans"),
        }
    }
}

fn read(name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    text.trim_ascii().parse().ok()
}
