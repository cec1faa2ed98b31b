//! What a client may take: of time, bytes and connections.

use std::time::Duration;

use crate::host::descriptors;

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
            connections: connections(descriptors::limit()),
            request: Duration::from_secs(10),
            answer: Duration::from_mins(1),
            // Prometheus itself closes what it has not used for five minutes.
            idle: Duration::from_mins(6),
            header_bytes: 16 * 1024,
            unread_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Descriptors that no connection gets: those of programs and maps, of the control socket and who
/// asks there, and what is opened for a moment to read something.
const OWN_DESCRIPTORS: u64 = 128;

/// Half of them, from one address, is far more than all Prometheus servers that anybody has.
fn connections(descriptors: u64) -> usize {
    const MOST: usize = 640;
    let left = descriptors.saturating_sub(OWN_DESCRIPTORS);
    usize::try_from(left).map_or(MOST, |left| left.clamp(2, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_work_keeps_its_descriptors() {
        assert_eq!(connections(u64::MAX), 640);
        assert_eq!(connections(1024), 640);
        assert_eq!(connections(256), 128);
        assert_eq!(connections(64), 2);
    }
}
