//! What came on the sockets of a group and was not read, and what went out and was not acknowledged.

use std::time::Duration;

use super::{Age, TickRate};
use crate::decode::CloseWaitSocket;

/// What came so short before the FIN came with it.
const TOGETHER: Duration = Duration::from_millis(200);
/// Who sent something in this time is at work on it.
const AT_WORK: Duration = Duration::from_mins(1);

/// How long ago what happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The FIN came.
    pub age: Age,
    /// The last data came, where that is known.
    pub data: Option<Duration>,
    /// Data was sent last, where that is known.
    pub sent: Option<Duration>,
}

impl Times {
    /// Those of `socket` when the clock says `now_ns`.
    #[must_use]
    pub fn of(socket: &CloseWaitSocket, now_ns: u64, tick_rate: Option<TickRate>) -> Self {
        let ago = |jiffies: Option<u32>| Some(tick_rate?.duration(jiffies?));
        Self {
            age: Age::of(socket, now_ns, tick_rate),
            data: ago(socket.last_data_jiffies),
            sent: ago(socket.last_sent_jiffies),
        }
    }

    /// Nothing else is known.
    #[cfg(test)]
    pub(super) const fn of_age(age: Age) -> Self {
        Self {
            age,
            data: None,
            sent: None,
        }
    }

    /// Whether the last data came together with the FIN, where that can be told.
    fn came_together(&self) -> Option<bool> {
        let apart = self.data?.abs_diff(self.age.time);
        // The FIN may be older than known, and then the data may be too.
        (apart <= TOGETHER || self.age.is_exact).then_some(apart <= TOGETHER)
    }

    /// Whether data was sent after the FIN came, and not long ago.
    fn is_answered(&self) -> bool {
        self.age.is_exact
            && self
                .sent
                .is_some_and(|sent| sent + TOGETHER < self.age.time && sent < AT_WORK)
    }
}

/// Sums over the queues of a group's sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Data that was not read, of the socket that has least and of that which has most.
    pub unread: Option<(u32, u32)>,
    /// Sockets whose last data came together with the FIN.
    pub together: u64,
    /// Sockets whose last data came before it.
    pub apart: u64,
    /// Sockets with data that is not acknowledged, and how much that is.
    pub unacknowledged: u64,
    /// Bytes of it.
    pub unacknowledged_bytes: u64,
    /// Sockets on which data was sent after the FIN came, and not long ago.
    pub answered: u64,
}

impl Queues {
    /// Adds a socket.
    pub fn add(&mut self, socket: &CloseWaitSocket, times: &Times) {
        // The FIN counts as one.
        let unread = socket.unread.saturating_sub(1);
        let together = times.came_together();
        self.merge(&Self {
            unread: Some((unread, unread)),
            together: u64::from(together == Some(true)),
            apart: u64::from(together == Some(false)),
            unacknowledged: u64::from(socket.unsent > 0),
            unacknowledged_bytes: socket.unsent.into(),
            answered: u64::from(times.is_answered()),
        });
    }

    /// Adds those of another group.
    pub fn merge(&mut self, other: &Self) {
        self.unread = match (self.unread, other.unread) {
            (Some((least, most)), Some((other_least, other_most))) => {
                Some((least.min(other_least), most.max(other_most)))
            }
            (one, other) => one.or(other),
        };
        self.together += other.together;
        self.apart += other.apart;
        self.unacknowledged += other.unacknowledged;
        self.unacknowledged_bytes += other.unacknowledged_bytes;
        self.answered += other.answered;
    }

    /// Takes away those of a group within this one.
    pub(super) const fn remove(&mut self, known: &Self) {
        self.together = self.together.saturating_sub(known.together);
        self.apart = self.apart.saturating_sub(known.apart);
        self.unacknowledged = self.unacknowledged.saturating_sub(known.unacknowledged);
        self.unacknowledged_bytes = self
            .unacknowledged_bytes
            .saturating_sub(known.unacknowledged_bytes);
        self.answered = self.answered.saturating_sub(known.answered);
    }

    /// Lets the queues of some go, of `before` sockets until `sockets` are left.
    pub(super) fn shrink_to(&mut self, sockets: u64, before: u64) {
        let bytes = u128::from(self.unacknowledged_bytes) * u128::from(sockets);
        let bytes = bytes / u128::from(before.max(1));
        self.unacknowledged_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        for count in [
            &mut self.together,
            &mut self.apart,
            &mut self.unacknowledged,
            &mut self.answered,
        ] {
            *count = (*count).min(sockets);
        }
        if sockets == 0 {
            self.unread = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(age: u64, is_exact: bool, data: Option<u64>, sent: Option<u64>) -> Times {
        Times {
            age: Age {
                time: Duration::from_secs(age),
                is_exact,
            },
            data: data.map(Duration::from_secs),
            sent: sent.map(Duration::from_secs),
        }
    }

    #[test]
    fn data_and_fin_came_together_where_that_can_be_told() {
        for (age, is_exact, data, expected) in [
            (60, true, Some(60), Some(true)),
            (60, true, Some(61), Some(false)),
            (60, false, Some(60), Some(true)),
            // The peer may have answered a keepalive since.
            (60, false, Some(90), None),
            (60, true, None, None),
        ] {
            let times = times(age, is_exact, data, None);
            assert_eq!(times.came_together(), expected, "{times:?}");
        }
    }

    #[test]
    fn who_sends_after_the_fin_is_at_work() {
        for (age, is_exact, sent, expected) in [
            (300, true, Some(2), true),
            (300, true, Some(300), false),
            (300, true, Some(200), false),
            (300, false, Some(2), false),
            (300, true, None, false),
        ] {
            let times = times(age, is_exact, None, sent);
            assert_eq!(times.is_answered(), expected, "{times:?}");
        }
    }
}
