//! `rate_limit`: so many requests at once, and one more each interval.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A bucket of tokens.
#[derive(Debug)]
pub(super) struct RateLimit {
    interval: Duration,
    burst: u64,
    /// When the bucket was, or will be, empty.
    empty_at: Mutex<Instant>,
}

impl RateLimit {
    /// A full bucket.
    pub(super) fn new((interval_ns, burst): (u64, u64)) -> Self {
        let interval = Duration::from_nanos(interval_ns);
        Self {
            interval,
            burst,
            empty_at: Mutex::new(Instant::now()),
        }
        .filled()
    }

    fn filled(self) -> Self {
        let full = self.full();
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        *empty_at = empty_at.checked_sub(full).unwrap_or(*empty_at);
        drop(empty_at);
        self
    }

    /// How long the bucket takes to fill.
    fn full(&self) -> Duration {
        let burst = u32::try_from(self.burst).unwrap_or(u32::MAX);
        self.interval.saturating_mul(burst)
    }

    /// Takes a token, if there is one.
    pub(super) fn allows(&self) -> bool {
        if self.burst == 0 {
            return false;
        }
        let now = Instant::now();
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        // No more than a full bucket.
        if let Some(earliest) = now.checked_sub(self.full()) {
            *empty_at = (*empty_at).max(earliest);
        }
        let taken = *empty_at + self.interval;
        if taken > now {
            return false;
        }
        *empty_at = taken;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_one_each_interval() {
        let limit = RateLimit::new((1_000_000_000, 3));
        let passed = |limit: &RateLimit| (0..10).filter(|_| limit.allows()).count();
        assert_eq!(passed(&limit), 3);
        tokio::time::advance(Duration::from_millis(900)).await;
        assert_eq!(passed(&limit), 0);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert_eq!(passed(&limit), 1);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(passed(&limit), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_burst_nothing_passes() {
        let limit = RateLimit::new((1, 0));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(!limit.allows());
    }
}
