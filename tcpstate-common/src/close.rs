//! The reasons for which connections end, and how many ended for each.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ending, OrderlyEnd, SentReset, verifier::masked};

/// A power of two that is at least the number of reasons, for a cheap bounds check.
const SLOTS: usize = 16;

/// How a full socket that stood for a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// This side closed first, and the peer acknowledged it.
    LocalFin = 0,
    /// The peer closed first, then this side, and the peer acknowledged that.
    RemoteFin = 1,
    /// Both sides closed at once: their FINs crossed.
    Simultaneous = 2,
    /// A reset came from the peer.
    ResetReceived = 3,
    /// This host answered a segment with a reset: data came after the process had closed.
    ResetSent = 4,
    /// This side cut it off: `SO_LINGER` 0, close with unread data, `connect(AF_UNSPEC)`, a
    /// listener that closed before accept(), `ss -K`, too many orphans.
    Aborted = 5,
    /// The peer did not answer retransmissions or keepalives any more.
    Timeout = 6,
    /// The peer answered the SYN with a reset.
    ConnectRefused = 7,
    /// Nobody answered the SYN.
    ConnectTimeout = 8,
    /// A reset came in the middle of the handshake.
    ConnectReset = 9,
    /// The process gave up connecting.
    ConnectAbandoned = 10,
    /// No local port was free.
    ConnectNoPort = 11,
    /// A connection that a listener had begun to take did not come about.
    HandshakeFailed = 12,
    /// Anything else.
    Other = 13,
}

impl CloseReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::LocalFin,
        Self::RemoteFin,
        Self::Simultaneous,
        Self::ResetReceived,
        Self::ResetSent,
        Self::Aborted,
        Self::Timeout,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectReset,
        Self::ConnectAbandoned,
        Self::ConnectNoPort,
        Self::HandshakeFailed,
        Self::Other,
    ];

    /// Whether the connection ended in good order.
    #[must_use]
    pub const fn is_normal(self) -> bool {
        matches!(self, Self::LocalFin | Self::RemoteFin | Self::Simultaneous)
    }

    /// The reason that has the number `raw`.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(raw: u8) -> Option<Self> {
        let index = raw as usize;
        if index < Self::ALL.len() {
            Some(Self::ALL[index])
        } else {
            None
        }
    }

    /// Where it stands in [`CloseCounters::count`].
    #[inline(always)]
    #[must_use]
    pub fn slot(self) -> usize {
        masked::<SLOTS>(self as u64)
    }

    /// The name in metrics and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalFin => "local_fin",
            Self::RemoteFin => "remote_fin",
            Self::Simultaneous => "simultaneous",
            Self::ResetReceived => "reset_received",
            Self::ResetSent => "reset_sent",
            Self::Aborted => "aborted",
            Self::Timeout => "timeout",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectReset => "connect_reset",
            Self::ConnectAbandoned => "connect_abandoned",
            Self::ConnectNoPort => "connect_no_port",
            Self::HandshakeFailed => "handshake_failed",
            Self::Other => "other",
        }
    }
}

/// How connections ended, on one CPU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct CloseCounters {
    /// By [`CloseReason`].
    pub count: [u64; SLOTS],
    /// Full sockets that left FIN_WAIT2 before the peer's FIN came.
    pub fin_wait2_orphaned: u64,
    /// Connections whose peer acknowledged this side's FIN with its own FIN, in one segment.
    pub three_segments: u64,
    /// Those whose peer sent the two one after the other.
    pub four_segments: u64,
    /// The socket that ended last on this CPU, 0 where its end is not to be corrected any more.
    pub last_socket: u64,
    /// How that ended: the number of an [`Ending`].
    pub last_ending: u32,
    /// 1 where it is in [`fin_wait2_orphaned`](Self::fin_wait2_orphaned).
    pub last_orphaned: u32,
    /// The socket whose FIN was acknowledged last on this CPU.
    pub acknowledged_socket: u64,
    /// When the kernel began with the segment that did it.
    pub acknowledged_ns: u64,
    /// The orphan in FIN_WAIT2 that a reset was sent for last on this CPU, without being asked.
    pub reset_ahead_socket: u64,
}

const _: () = {
    assert!(size_of::<CloseCounters>() == 192);
    assert!(CloseReason::ALL.len() <= SLOTS);
};

impl CloseCounters {
    /// Counts the end of `socket`, and says why it ended.
    #[inline(always)]
    pub fn end(&mut self, socket: u64, ending: Ending) -> CloseReason {
        let reason = ending.reason();
        self.count[reason.slot()] += 1;
        self.note_last(socket, ending, ending.is_handed_over());
        reason
    }

    /// Counts the end of `socket` in good order, and says why it ended. The same as
    /// [`end`](Self::end), with nothing to look up where the compiler knows the stage.
    #[inline(always)]
    pub fn end_in_order(&mut self, socket: u64, end: OrderlyEnd) -> CloseReason {
        let reason = end.reason();
        self.count[reason as usize] += 1;
        self.note_last(socket, end.ending(), end.is_handed_over());
        reason
    }

    #[inline(always)]
    fn note_last(&mut self, socket: u64, ending: Ending, is_orphaned: bool) {
        self.last_socket = socket;
        self.last_ending = ending.number();
        self.last_orphaned = is_orphaned.into();
        self.fin_wait2_orphaned += u64::from(is_orphaned);
    }

    /// The peer has acknowledged the FIN of `socket`, in the segment that the kernel began with at
    /// `segment_ns`.
    #[inline(always)]
    pub fn fin_acknowledged(&mut self, socket: u64, segment_ns: u64) {
        self.acknowledged_socket = socket;
        self.acknowledged_ns = segment_ns;
    }

    /// `socket` left FIN_WAIT2 in good order, in the segment that the kernel began with at
    /// `segment_ns`: the peer's FIN came, or the full socket went and the FIN is still to come.
    /// Whether it was the segment that acknowledged this side's FIN.
    #[inline(always)]
    pub fn fin_wait2_left(&mut self, socket: u64, segment_ns: u64, has_fin_come: bool) -> bool {
        let is_same = has_fin_come
            && self.acknowledged_socket == socket
            && self.acknowledged_ns == segment_ns;
        if is_same {
            self.three_segments += 1;
        } else {
            self.four_segments += 1;
        }
        is_same
    }

    /// This host sends a reset for `socket`, which is in CLOSE. Says what its end was counted as
    /// and what it is counted as instead, if that changes.
    #[inline(always)]
    pub fn correct(&mut self, socket: u64, by: SentReset) -> Option<(CloseReason, CloseReason)> {
        if self.last_socket != socket {
            return None;
        }
        self.last_socket = 0;
        let ending = Ending::from_number(self.last_ending);
        let (counted, corrected) = (ending.reason(), ending.corrected(by)?);
        let count = &mut self.count[counted.slot()];
        *count = count.wrapping_sub(1);
        self.count[corrected.slot()] += 1;
        // Of an orphan the FIN that makes four segments was still to come; now it never will.
        let orphaned = u64::from(self.last_orphaned);
        self.fin_wait2_orphaned = self.fin_wait2_orphaned.wrapping_sub(orphaned);
        self.four_segments = self.four_segments.saturating_sub(orphaned);
        Some((counted, corrected))
    }

    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, u64::wrapping_add);
    }

    /// How many ended for this reason.
    #[must_use]
    pub fn of(&self, reason: CloseReason) -> u64 {
        self.count[reason.slot()]
    }

    /// The greater of each count here and there: what has been shown once does not go back when
    /// a correction comes a moment after the end that it corrects.
    pub fn rise_to(&mut self, other: &Self) {
        self.merge(other, u64::max);
    }

    fn merge(&mut self, other: &Self, merged: impl Fn(u64, u64) -> u64) {
        let Self {
            count,
            fin_wait2_orphaned,
            three_segments,
            four_segments,
            last_socket: _,
            last_ending: _,
            last_orphaned: _,
            acknowledged_socket: _,
            acknowledged_ns: _,
            reset_ahead_socket: _,
        } = self;
        for (count, other) in count.iter_mut().zip(&other.count) {
            *count = merged(*count, *other);
        }
        *fin_wait2_orphaned = merged(*fin_wait2_orphaned, other.fin_wait2_orphaned);
        *three_segments = merged(*three_segments, other.three_segments);
        *four_segments = merged(*four_segments, other.four_segments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stage;
    use CloseReason::{LocalFin, ResetReceived, ResetSent};

    const ECONNRESET: i32 = 104;

    fn handed_over() -> Ending {
        Ending::new(Stage::HandedOver, 0)
    }

    fn reset() -> Ending {
        Ending::new(Stage::Unfinished, ECONNRESET)
    }

    #[test]
    fn a_correction_moves_one_count_and_only_of_the_socket_that_ended_last() {
        let mut counters = CloseCounters::default();
        for socket in [1, 2] {
            counters.fin_wait2_left(socket, 1000, false);
            counters.end(socket, handed_over());
        }
        assert_eq!(counters.correct(1, SentReset::Answer), None);
        let corrected = counters.correct(2, SentReset::Answer);
        assert_eq!(corrected, Some((LocalFin, ResetSent)));
        assert_eq!(counters.correct(2, SentReset::Answer), None);
        assert_eq!(
            (counters.of(LocalFin), counters.of(ResetSent)),
            (1, 1),
            "{counters:?}"
        );
        assert_eq!(
            (counters.fin_wait2_orphaned, counters.four_segments),
            (1, 1)
        );
        assert_eq!(counters.count.iter().sum::<u64>(), 2);
    }

    #[test]
    fn what_is_shown_does_not_go_back_when_a_correction_comes_later() {
        let mut counters = CloseCounters::default();
        counters.end(1, reset());
        let mut shown = counters;
        counters.correct(1, SentReset::Answer);
        shown.rise_to(&counters);
        assert_eq!((shown.of(ResetReceived), shown.of(ResetSent)), (1, 1));
        counters.end(2, reset());
        shown.rise_to(&counters);
        assert_eq!(shown.count, counters.count);
    }

    #[test]
    fn three_segments_are_those_in_which_the_ack_has_the_fin_with_it() {
        let mut counters = CloseCounters::default();
        // The same segment
        counters.fin_acknowledged(1, 1000);
        assert!(counters.fin_wait2_left(1, 1000, true));
        // A later one
        counters.fin_acknowledged(1, 2000);
        assert!(!counters.fin_wait2_left(1, 2001, true));
        // Left to a minisocket
        counters.fin_acknowledged(1, 3000);
        assert!(!counters.fin_wait2_left(1, 3000, false));
        // Another one's
        counters.fin_acknowledged(1, 4000);
        assert!(!counters.fin_wait2_left(2, 4000, true));
        assert_eq!((counters.three_segments, counters.four_segments), (1, 3));
    }

    #[test]
    fn numbers_and_names_are_distinct_and_lead_back() {
        for (number, reason) in CloseReason::ALL.into_iter().enumerate() {
            let number = u8::try_from(number).unwrap();
            assert_eq!(reason as u8, number);
            assert_eq!(CloseReason::from_number(number), Some(reason));
            let same = CloseReason::ALL
                .into_iter()
                .filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1);
        }
        assert_eq!(CloseReason::from_number(14), None);
    }
}
