//! Timewait minisockets between two snapshots.
//!
//! They have no transitions. The kernel tells cheaply how many a namespace has, but not of which
//! family, nor whether they stand for TIME_WAIT or FIN_WAIT2. The last snapshot knows that, and
//! the live counters know how many of each were made since.

use tcpstate_common::{Family, NamespaceCounters, TcpState};

use super::Census;
use crate::collect::SocketCounts;

/// Minisockets by family and by the state they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minisockets {
    /// By family slot.
    pub time_wait: [u64; 2],
    /// By family slot.
    pub fin_wait2: [u64; 2],
}

impl Minisockets {
    /// Those that a snapshot found.
    #[must_use]
    pub fn counted(counts: &SocketCounts) -> Self {
        Self {
            time_wait: Family::ALL
                .map(|family| counts.by_state[family.slot()][TcpState::TimeWait.slot()]),
            fin_wait2: counts.fin_wait2_mini,
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.time_wait.iter().chain(&self.fin_wait2).sum()
    }

    /// These, and those that were made while the counters went from `before` to `after`.
    #[must_use]
    pub fn with_made(mut self, before: &NamespaceCounters, after: &NamespaceCounters) -> Self {
        for family in Family::ALL.map(Family::slot) {
            self.time_wait[family] +=
                u64::from(after.to_time_wait[family].wrapping_sub(before.to_time_wait[family]));
            self.fin_wait2[family] += u64::from(
                after.to_fin_wait2_mini[family].wrapping_sub(before.to_fin_wait2_mini[family]),
            );
        }
        self
    }

    /// Scales to the `total` that the kernel tells: what is missing has expired, in proportion.
    /// Exact where nothing has expired since the snapshot, and where all are of one kind.
    #[must_use]
    pub fn scaled_to(self, total: u64) -> Self {
        let known = self.total();
        if known == 0 {
            return Self {
                time_wait: [total, 0],
                ..Self::default()
            };
        }
        let mut weights = [
            self.time_wait[0],
            self.time_wait[1],
            self.fin_wait2[0],
            self.fin_wait2[1],
        ];
        // Running sums are rounded, not the parts, so that the parts add up to the total.
        let (mut sum, mut given) = (0, 0);
        for weight in &mut weights {
            sum += u128::from(*weight);
            let until = u64::try_from(sum * u128::from(total) / u128::from(known)).unwrap_or(total);
            *weight = until - given;
            given = until;
        }
        let [time_wait4, time_wait6, fin_wait2_4, fin_wait2_6] = weights;
        Self {
            time_wait: [time_wait4, time_wait6],
            fin_wait2: [fin_wait2_4, fin_wait2_6],
        }
    }

    /// Adds them to `census` under the states they stand for.
    pub fn add_to(&self, census: &mut Census) {
        for family in Family::ALL {
            census.add(family, TcpState::TimeWait, self.time_wait[family.slot()]);
            census.add(family, TcpState::FinWait2, self.fin_wait2[family.slot()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn those_made_since_the_snapshot_keep_their_family_and_state() {
        let counted = Minisockets {
            time_wait: [10, 0],
            fin_wait2: [0, 3],
        };
        let after = NamespaceCounters {
            to_time_wait: [5, 1],
            to_fin_wait2_mini: [0, 2],
            ..NamespaceCounters::default()
        };
        let now = counted.with_made(&NamespaceCounters::default(), &after);
        assert_eq!(now.time_wait, [15, 1]);
        assert_eq!(now.fin_wait2, [0, 5]);
        assert_eq!(now.scaled_to(21), now);
    }

    #[test]
    fn when_all_have_expired_none_are_left() {
        let counted = Minisockets {
            time_wait: [10, 7],
            fin_wait2: [1, 1],
        };
        assert_eq!(counted.scaled_to(0), Minisockets::default());
    }

    #[test]
    fn minisockets_of_an_unknown_kind_are_in_time_wait() {
        assert_eq!(Minisockets::default().scaled_to(4).time_wait, [4, 0]);
    }

    proptest! {
        #[test]
        fn scaling_gives_the_total_and_invents_no_kind(
            parts in prop::array::uniform4(0_u64..1_000_000),
            total in 0_u64..2_000_000,
        ) {
            let before = Minisockets {
                time_wait: [parts[0], parts[1]],
                fin_wait2: [parts[2], parts[3]],
            };
            let after = before.scaled_to(total);
            prop_assert_eq!(after.total(), total);
            if before.total() > 0 {
                let kinds = |m: &Minisockets| [m.time_wait[0], m.time_wait[1], m.fin_wait2[0], m.fin_wait2[1]];
                for (before, after) in kinds(&before).into_iter().zip(kinds(&after)) {
                    prop_assert!(before > 0 || after == 0);
                }
            }
        }
    }
}
