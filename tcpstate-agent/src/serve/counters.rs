//! What the server counts of itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was ended by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// There were too many, and it took more than its share for longest without a request.
    Limit,
    /// Its source address had half of all.
    SourceLimit,
    /// It did not send a request in time.
    RequestTimeout,
    /// It did not read an answer in time.
    AnswerTimeout,
    /// It sent no further request.
    Idle,
    /// Answers that are not read held too much memory.
    UnreadBytes,
    /// It was needed for a descriptor.
    Descriptors,
    /// It did not come to a TLS connection.
    Handshake,
}

/// Why a request was not answered with what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It made no sense.
    Malformed,
    /// Its headers were too long.
    HeadersTooLarge,
    /// Plain HTTP where TLS is spoken.
    NotTls,
    /// No name and password, or wrong ones.
    Unauthorized,
    /// More than `rate_limit` allows.
    RateLimited,
    /// The web configuration file has become unusable.
    Config,
    /// More than `--web.max-requests`.
    Busy,
}

/// Values of the labels, in the order of the variants.
const DROPS: [&str; 8] = [
    "limit",
    "source_limit",
    "request_timeout",
    "answer_timeout",
    "idle",
    "unread_bytes",
    "descriptors",
    "handshake",
];
const REFUSALS: [&str; 7] = [
    "malformed",
    "headers_too_large",
    "not_tls",
    "unauthorized",
    "rate_limited",
    "config",
    "busy",
];
/// Those that scrapes can be answered with.
const CODES: [u16; 3] = [200, 500, 503];
const CODE_LABELS: [&str; 3] = ["200", "500", "503"];

/// Counted from the server's start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    ended: AtomicU64,
    drops: [AtomicU64; DROPS.len()],
    refusals: [AtomicU64; REFUSALS.len()],
    scrapes: [AtomicU64; CODES.len()],
    scrapes_in_flight: AtomicU64,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpReading {
    /// Connections that are open.
    pub open: u64,
    /// Connections that came.
    pub accepted: u64,
    /// How often no connection could be accepted.
    pub accept_errors: u64,
    /// Connections that the server ended, by why.
    pub drops: [(&'static str, u64); DROPS.len()],
    /// Requests that were refused, by why.
    pub refusals: [(&'static str, u64); REFUSALS.len()],
    /// Scrapes that were answered, by status code.
    pub scrapes: [(&'static str, u64); CODES.len()],
    /// Scrapes that are being answered.
    pub scrapes_in_flight: u64,
}

impl Counters {
    pub(super) fn accepted(&self) {
        add_one(&self.accepted);
    }

    pub(super) fn accept_failed(&self) {
        add_one(&self.accept_errors);
    }

    pub(super) fn ended(&self) {
        add_one(&self.ended);
    }

    pub(super) fn dropped(&self, why: Dropped) {
        add_one(&self.drops[why as usize]);
    }

    pub(super) fn refused(&self, why: Refusal) {
        add_one(&self.refusals[why as usize]);
    }

    /// A scrape was answered with `code`.
    pub(super) fn scraped(&self, code: u16) {
        if let Some(place) = CODES.iter().position(|known| *known == code) {
            add_one(&self.scrapes[place]);
        }
    }

    /// A scrape is being answered until what this returns is dropped.
    pub(super) fn scrape_begins(&self) -> InFlight<'_> {
        add_one(&self.scrapes_in_flight);
        InFlight(&self.scrapes_in_flight)
    }

    pub(super) fn read(&self) -> HttpReading {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // In this order, or one that comes in between would be open less than never.
        let ended = read(&self.ended);
        let accepted = read(&self.accepted);
        HttpReading {
            open: accepted.saturating_sub(ended),
            accepted,
            accept_errors: read(&self.accept_errors),
            drops: std::array::from_fn(|place| (DROPS[place], read(&self.drops[place]))),
            refusals: std::array::from_fn(|place| (REFUSALS[place], read(&self.refusals[place]))),
            scrapes: std::array::from_fn(|place| (CODE_LABELS[place], read(&self.scrapes[place]))),
            scrapes_in_flight: read(&self.scrapes_in_flight),
        }
    }
}

/// A scrape that is being answered.
pub(super) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add_one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_under_its_own_label() {
        let counters = Counters::default();
        counters.dropped(Dropped::Handshake);
        counters.refused(Refusal::Busy);
        counters.scraped(503);
        let reading = counters.read();
        assert_eq!(reading.drops[7], ("handshake", 1));
        assert_eq!(reading.refusals[6], ("busy", 1));
        assert_eq!(reading.scrapes, [("200", 0), ("500", 0), ("503", 1)]);
    }

    #[test]
    fn a_scrape_is_in_flight_until_it_is_answered() {
        let counters = Counters::default();
        let scrape = counters.scrape_begins();
        assert_eq!(counters.read().scrapes_in_flight, 1);
        drop(scrape);
        assert_eq!(counters.read().scrapes_in_flight, 0);
    }
}
