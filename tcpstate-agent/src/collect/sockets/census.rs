//! How many sockets there are, by family and state.

use std::ops::AddAssign;

use tcpstate_common::{Family, STATE_SLOTS, TcpState};

/// Sockets by family and state. Half-open connections are in [`TcpState::SynRecv`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census([[u64; STATE_SLOTS]; 2]);

impl Census {
    /// Sockets of `family` in `state`.
    #[must_use]
    pub fn get(&self, family: Family, state: TcpState) -> u64 {
        self.0[family.slot()][state.slot()]
    }

    /// Adds `count` sockets of `family` in `state`.
    pub fn add(&mut self, family: Family, state: TcpState, count: u64) {
        self.0[family.slot()][state.slot()] += count;
    }

    /// Sockets in `state`, both families.
    #[must_use]
    pub fn in_state(&self, state: TcpState) -> u64 {
        Family::ALL
            .into_iter()
            .map(|family| self.get(family, state))
            .sum()
    }

    /// All sockets.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }
}

impl AddAssign<&Self> for Census {
    fn add_assign(&mut self, other: &Self) {
        for (states, other) in self.0.iter_mut().zip(&other.0) {
            for (count, other) in states.iter_mut().zip(other) {
                *count += other;
            }
        }
    }
}
