//! What half-open connections wait for.

use serde::{Deserialize, Serialize};
use tcpstate_common::{ServiceCounts, TcpState};

/// What a half-open connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfOpenKind {
    /// The third ACK.
    Waiting,
    /// Its first data (`TCP_DEFER_ACCEPT`).
    Deferred,
    /// Room in the accept queue: the third ACK has come.
    AcceptQueueFull,
}

impl HalfOpenKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Deferred, Self::AcceptQueueFull];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Deferred => "deferred",
            Self::AcceptQueueFull => "accept_queue_full",
        }
    }
}

/// Half-open connections by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfOpenKinds {
    /// [`HalfOpenKind::Waiting`].
    pub waiting: u64,
    /// [`HalfOpenKind::Deferred`].
    pub deferred: u64,
    /// [`HalfOpenKind::AcceptQueueFull`].
    pub accept_queue_full: u64,
}

impl HalfOpenKinds {
    /// Divides the `now` half-open connections there are as the last pass has found them. Where
    /// it has found none they all wait.
    #[must_use]
    pub fn divided(now: u64, found: &ServiceCounts) -> Self {
        let all = u64::from(found.by_state[TcpState::NewSynRecv as usize]);
        let part = |count: u32| {
            let part = u128::from(count) * u128::from(now) / u128::from(all.max(1));
            u64::try_from(part).unwrap_or(u64::MAX).min(now)
        };
        let (deferred, accept_queue_full) = (part(found.deferred), part(found.held_back));
        Self {
            waiting: now.saturating_sub(deferred + accept_queue_full),
            deferred,
            accept_queue_full,
        }
    }

    /// Those of one kind.
    #[must_use]
    pub const fn get(&self, kind: HalfOpenKind) -> u64 {
        match kind {
            HalfOpenKind::Waiting => self.waiting,
            HalfOpenKind::Deferred => self.deferred,
            HalfOpenKind::AcceptQueueFull => self.accept_queue_full,
        }
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.waiting + self.deferred + self.accept_queue_full
    }

    /// Adds others.
    pub const fn add(&mut self, other: &Self) {
        self.waiting += other.waiting;
        self.deferred += other.deferred;
        self.accept_queue_full += other.accept_queue_full;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_now_are_divided_as_they_were() {
        let mut found = ServiceCounts {
            deferred: 2,
            held_back: 3,
            ..ServiceCounts::default()
        };
        found.by_state[TcpState::NewSynRecv as usize] = 10;
        let kinds = |now| {
            let kinds = HalfOpenKinds::divided(now, &found);
            assert_eq!(kinds.total(), now);
            (kinds.waiting, kinds.deferred, kinds.accept_queue_full)
        };
        assert_eq!(kinds(10), (5, 2, 3));
        assert_eq!(kinds(20), (10, 4, 6));
        assert_eq!(kinds(0), (0, 0, 0));
        let none = HalfOpenKinds::divided(7, &ServiceCounts::default());
        assert_eq!(none.waiting, 7);
    }
}
