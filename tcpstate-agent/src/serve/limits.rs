//! What a client may take: of time, bytes and connections.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// Limits of the server. No scraper that behaves comes near any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all. One source address has half of them at most.
    pub connections: usize,
    /// From the first byte of a request to its last; for the first one from the connection on, TLS
    /// included.
    pub request: Duration,
    /// From the end of a request until its answer is handed to the kernel whole.
    pub answer: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
    /// Bytes of a request's line and headers.
    pub header_bytes: usize,
    /// Bytes of pages of metrics that clients have not finished reading, those shared counted
    /// once.
    pub unread_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: connections(),
            request: Duration::from_secs(10),
            answer: Duration::from_mins(1),
            // Prometheus itself closes what it has not used for five minutes.
            idle: Duration::from_mins(6),
            header_bytes: 16 * 1024,
            unread_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Half of them, from one address, is far more than all Prometheus servers that anybody has. Where
/// few descriptors are allowed, three in eight are left to the agent's own work.
fn connections() -> usize {
    const MOST: usize = 640;
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = descriptors.saturating_mul(5) / 8;
    usize::try_from(share).map_or(MOST, |share| share.clamp(2, MOST))
}
