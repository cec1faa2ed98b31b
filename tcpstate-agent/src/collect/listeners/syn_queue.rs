//! How many half-open connections a listening socket may have.

use crate::decode::Limits;

/// The settings of a network namespace that limit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynQueueLimits {
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub max_syn_backlog: u32,
    /// `net.ipv4.tcp_syncookies`: 0 for never.
    pub syncookies: u32,
}

impl From<Limits> for SynQueueLimits {
    fn from(limits: Limits) -> Self {
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            max_syn_backlog: small(limits.max_syn_backlog),
            syncookies: small(limits.syncookies),
        }
    }
}

impl SynQueueLimits {
    /// The limit for a socket with room for `backlog` connections in its accept queue. The kernel
    /// takes the one limit for both queues ([`inet_csk_reqsk_queue_is_full()`][full]). Without SYN
    /// cookies it keeps the last quarter of `tcp_max_syn_backlog` for peers that it knows
    /// ([`tcp_conn_request()`][request]). It takes one more than that, and newer kernels take one
    /// more than `backlog` (measured: 129 of 128 with 6.18).
    ///
    /// [full]: https://github.com/torvalds/linux/blob/v6.12/include/net/inet_connection_sock.h
    /// [request]: https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_input.c
    #[must_use]
    pub fn limit(self, backlog: u32) -> u32 {
        if self.syncookies != 0 {
            return backlog;
        }
        backlog.min(self.max_syn_backlog - self.max_syn_backlog / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cookies_a_quarter_is_kept_for_peers_that_are_known() {
        let limits = |syncookies| SynQueueLimits {
            max_syn_backlog: 512,
            syncookies,
        };
        for (syncookies, backlog, limit) in [
            (1, 4096, 4096),
            (2, 128, 128),
            (0, 4096, 384),
            (0, 128, 128),
        ] {
            assert_eq!(limits(syncookies).limit(backlog), limit);
        }
    }
}
