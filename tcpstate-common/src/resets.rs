//! Resets, as the kernel's tracepoints tell of them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Reasons that have a count of their own, a power of two: `enum sk_rst_reason` has some thirty.
/// Those beyond are counted in the last.
pub const RESET_REASONS: usize = 64;

/// Resets, on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ResetCounters {
    /// Those that this host sent, by the kernel's number for why; 0 where it does not say.
    pub sent: [u64; RESET_REASONS],
    /// Those that came for a socket. Rises, and falls where one was none after all.
    pub received: u64,
}

const _: () = assert!(size_of::<ResetCounters>() == 520);

impl Default for ResetCounters {
    fn default() -> Self {
        Self {
            sent: [0; RESET_REASONS],
            received: 0,
        }
    }
}

impl ResetCounters {
    /// Counts one that was sent.
    #[inline(always)]
    pub fn send(&mut self, reason: u32) {
        let last = RESET_REASONS - 1;
        let reason = reason as usize;
        let reason = if reason > last { last } else { reason };
        // The mask is for the verifier.
        self.sent[reason & last] += 1;
    }

    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        for (count, other) in self.sent.iter_mut().zip(&other.sent) {
            *count = count.wrapping_add(*other);
        }
        self.received = self.received.wrapping_add(other.received);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_beyond_the_table_is_counted_in_the_last() {
        let mut counters = ResetCounters::default();
        for reason in [0, 8, 63, 64, u32::MAX] {
            counters.send(reason);
        }
        let mut all = ResetCounters::default();
        all.add(&counters);
        all.add(&counters);
        assert_eq!((all.sent[0], all.sent[8], all.sent[63]), (2, 2, 6));
        assert_eq!(all.sent.iter().sum::<u64>(), 10);
    }
}
