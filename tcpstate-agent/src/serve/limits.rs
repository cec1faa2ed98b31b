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

/// With twice as many Prometheus servers as anybody has, all from one address, half of them is
/// plenty. Where few descriptors are allowed, most are left to the agent's own work.
fn connections() -> usize {
    const MOST: usize = 640;
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 2).map_or(MOST, |half| half.clamp(2, MOST))
}
