//! How a connection ended: one decision, for the counters in the kernel and for `trace`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::TcpState;

/// A power of two that is at least the number of reasons, for a cheap bounds check.
const SLOTS: usize = 16;

/// The errors that TCP leaves in `sk_err`, [`include/uapi/asm-generic/errno.h`].
///
/// [`include/uapi/asm-generic/errno.h`]: https://github.com/torvalds/linux/blob/v6.12/include/uapi/asm-generic/errno.h
pub mod errno {
    /// A reset came in CLOSE_WAIT.
    pub const EPIPE: i32 = 32;
    /// A router knows no way, or a firewall lets nothing through.
    pub const EACCES: i32 = 13;
    /// A host is isolated.
    pub const ENONET: i32 = 64;
    /// A parameter problem.
    pub const EPROTO: i32 = 71;
    /// The peer has no such protocol.
    pub const ENOPROTOOPT: i32 = 92;
    /// No way to the network.
    pub const ENETUNREACH: i32 = 101;
    /// `ss -K`.
    pub const ECONNABORTED: i32 = 103;
    /// A reset came.
    pub const ECONNRESET: i32 = 104;
    /// No answer.
    pub const ETIMEDOUT: i32 = 110;
    /// A reset came instead of a SYN-ACK.
    pub const ECONNREFUSED: i32 = 111;
    /// The host is down.
    pub const EHOSTDOWN: i32 = 112;
    /// No way to the host.
    pub const EHOSTUNREACH: i32 = 113;
}

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

/// What is known of a socket at its transition to CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketEnd {
    /// The state that it left. It says which side's FIN came first, if one did.
    pub old: TcpState,
    /// `sk_err`, a positive errno or 0.
    pub error: i32,
    /// Whether it has a local port. Matters in `SYN_SENT` only.
    pub has_port: bool,
    /// Whether this side opened the connection. Matters in `SYN_RECV` only, where a socket can
    /// be by a simultaneous open.
    pub is_opener: bool,
    /// Whether the process still has the socket, and the peer's FIN has not come. Matters in
    /// `FIN_WAIT2` only: then it was cut off, and is not followed by a minisocket.
    pub is_cut_off: bool,
}

/// What a reset that this host sends says of a socket that went to CLOSE just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentReset {
    /// It answers a segment.
    Answer,
    /// It comes of what this host did of its own.
    Unasked,
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

    /// How the connection of `end` ended; `None` for a listener, which was none.
    ///
    /// A state that is left without an error tells the path: `LAST_ACK` is reached only after the
    /// peer's FIN, `FIN_WAIT2` only before it, `CLOSING` only when both crossed. Left from any
    /// other state the connection was cut off. With an error the error tells. In a few cases the
    /// kernel says only a moment later that it was otherwise, see [`corrected`](Self::corrected).
    #[inline(always)]
    #[must_use]
    pub const fn of(end: SocketEnd) -> Option<Self> {
        Some(match end.old {
            TcpState::Listen => return None,
            TcpState::SynSent => Self::of_connecting(end),
            TcpState::SynRecv if end.is_opener => Self::of_connecting(end),
            TcpState::SynRecv => Self::HandshakeFailed,
            _ if end.error == 0 => match end.old {
                TcpState::LastAck => Self::RemoteFin,
                TcpState::FinWait2 if !end.is_cut_off => Self::LocalFin,
                TcpState::Closing => Self::Simultaneous,
                _ => Self::Aborted,
            },
            _ => Self::of_error(end.error),
        })
    }

    #[inline(always)]
    const fn of_connecting(end: SocketEnd) -> Self {
        match end.error {
            0 if !end.has_port => Self::ConnectNoPort,
            0 => Self::ConnectAbandoned,
            errno::ECONNREFUSED => Self::ConnectRefused,
            errno::ETIMEDOUT => Self::ConnectTimeout,
            errno::ECONNRESET => Self::ConnectReset,
            errno::ECONNABORTED => Self::Aborted,
            _ => Self::Other,
        }
    }

    /// Of a connection that had come about. What ICMP has said meanwhile takes the place of the
    /// time-out when retransmissions are given up (`tcp_write_err()`), and is not fatal itself.
    #[inline(always)]
    const fn of_error(error: i32) -> Self {
        match error {
            errno::ECONNRESET | errno::EPIPE => Self::ResetReceived,
            errno::ECONNABORTED => Self::Aborted,
            errno::ETIMEDOUT
            | errno::EACCES
            | errno::ENONET
            | errno::EPROTO
            | errno::ENOPROTOOPT
            | errno::ENETUNREACH
            | errno::ECONNREFUSED
            | errno::EHOSTDOWN
            | errno::EHOSTUNREACH => Self::Timeout,
            _ => Self::Other,
        }
    }

    /// What it was indeed, where right after the transition to CLOSE the host sends a reset for
    /// the same socket. `None` where that changes nothing.
    ///
    /// The kernel closes the socket first. When data comes for one that the process has closed,
    /// it even runs the way of a reset that was received, error and all; when the process closes
    /// one in `CLOSING` and leaves data unread, it looks like the end that follows a FIN.
    #[inline(always)]
    #[must_use]
    pub const fn corrected(self, by: SentReset) -> Option<Self> {
        match (self, by) {
            (
                Self::LocalFin | Self::RemoteFin | Self::Simultaneous | Self::ResetReceived,
                SentReset::Answer,
            ) => Some(Self::ResetSent),
            (Self::LocalFin | Self::RemoteFin | Self::Simultaneous, SentReset::Unasked) => {
                Some(Self::Aborted)
            }
            _ => None,
        }
    }

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
        // As in `TcpState::slot()`.
        #[cfg(target_arch = "bpf")]
        return core::hint::black_box(self as usize) & (SLOTS - 1);
        #[cfg(not(target_arch = "bpf"))]
        return self as usize;
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
    /// How that was counted: a [`CloseReason`].
    pub last_reason: u32,
    /// 1 where it is in [`fin_wait2_orphaned`](Self::fin_wait2_orphaned).
    pub last_orphaned: u32,
    /// The socket whose FIN was acknowledged last on this CPU.
    pub acknowledged_socket: u64,
    /// When the kernel began with the segment that did it.
    pub acknowledged_ns: u64,
}

const _: () = {
    assert!(size_of::<CloseCounters>() == 184);
    assert!(CloseReason::ALL.len() <= SLOTS);
};

impl CloseCounters {
    /// Counts the end of `socket`.
    #[inline(always)]
    pub fn end(&mut self, socket: u64, reason: CloseReason, is_orphaned: bool) {
        self.count[reason.slot()] += 1;
        self.last_socket = socket;
        self.last_reason = reason as u32;
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
        let counted = CloseReason::from_number((self.last_reason & 0xff) as u8)?;
        let corrected = counted.corrected(by)?;
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
            last_reason: _,
            last_orphaned: _,
            acknowledged_socket: _,
            acknowledged_ns: _,
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
    use CloseReason::{
        Aborted, ConnectAbandoned, ConnectNoPort, ConnectRefused, ConnectReset, ConnectTimeout,
        HandshakeFailed, LocalFin, Other, RemoteFin, ResetReceived, ResetSent, Simultaneous,
        Timeout,
    };
    use TcpState::{
        CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    };

    fn end(old: TcpState, error: i32) -> SocketEnd {
        SocketEnd {
            old,
            error,
            has_port: true,
            is_opener: matches!(old, SynSent),
            is_cut_off: false,
        }
    }

    #[test]
    fn every_way_that_the_kernel_ends_a_connection_has_its_reason() {
        for (old, error, reason) in [
            // In good order, seen from either side.
            (FinWait2, 0, LocalFin),
            (LastAck, 0, RemoteFin),
            (Closing, 0, Simultaneous),
            // tcp_reset()
            (Established, 104, ResetReceived),
            (CloseWait, 32, ResetReceived),
            (FinWait1, 104, ResetReceived),
            (FinWait2, 104, ResetReceived),
            (Closing, 104, ResetReceived),
            (LastAck, 104, ResetReceived),
            // SO_LINGER 0, unread data, connect(AF_UNSPEC), listener closed, too many orphans
            (Established, 0, Aborted),
            (CloseWait, 0, Aborted),
            (FinWait1, 0, Aborted),
            // ss -K
            (Established, 103, Aborted),
            (CloseWait, 103, Aborted),
            (FinWait1, 103, Aborted),
            (FinWait2, 103, Aborted),
            (LastAck, 103, Aborted),
            (Closing, 103, Aborted),
            (SynSent, 103, Aborted),
            // tcp_write_err(), with what ICMP had said if it had
            (Established, 110, Timeout),
            (CloseWait, 110, Timeout),
            (FinWait1, 110, Timeout),
            (LastAck, 110, Timeout),
            (Closing, 110, Timeout),
            (Established, 113, Timeout),
            (FinWait1, 101, Timeout),
            (LastAck, 111, Timeout),
            // connect()
            (SynSent, 111, ConnectRefused),
            (SynSent, 110, ConnectTimeout),
            (SynSent, 104, ConnectReset),
            (SynSent, 0, ConnectAbandoned),
            (SynSent, 113, Other),
            (SynSent, 101, Other),
            // The child of a listener
            (SynRecv, 0, HandshakeFailed),
            (SynRecv, 104, HandshakeFailed),
            (SynRecv, 110, HandshakeFailed),
            // An error that TCP does not make
            (Established, 5, Other),
        ] {
            assert_eq!(
                CloseReason::of(end(old, error)),
                Some(reason),
                "{old:?} {error}"
            );
        }
    }

    #[test]
    fn a_simultaneous_open_that_fails_is_a_connect_that_failed() {
        for (error, reason) in [
            (104, ConnectReset),
            (110, ConnectTimeout),
            (0, ConnectAbandoned),
        ] {
            let end = SocketEnd {
                is_opener: true,
                ..end(SynRecv, error)
            };
            assert_eq!(CloseReason::of(end), Some(reason), "{error}");
        }
    }

    #[test]
    fn without_a_port_none_was_free() {
        for (error, reason) in [(0, ConnectNoPort), (110, ConnectTimeout)] {
            let end = SocketEnd {
                has_port: false,
                ..end(SynSent, error)
            };
            assert_eq!(CloseReason::of(end), Some(reason));
        }
        // Elsewhere the port says nothing.
        let end = SocketEnd {
            has_port: false,
            ..end(Established, 0)
        };
        assert_eq!(CloseReason::of(end), Some(Aborted));
    }

    #[test]
    fn what_is_cut_off_in_fin_wait2_is_aborted() {
        for (error, reason) in [(0, Aborted), (104, ResetReceived)] {
            let end = SocketEnd {
                is_cut_off: true,
                ..end(FinWait2, error)
            };
            assert_eq!(CloseReason::of(end), Some(reason));
        }
    }

    #[test]
    fn the_end_of_a_listener_is_the_end_of_no_connection() {
        for error in [0, 104] {
            assert_eq!(CloseReason::of(end(Listen, error)), None);
        }
    }

    #[test]
    fn a_reset_sent_right_after_says_what_it_was() {
        for (counted, by, corrected) in [
            // Data for what the process has closed
            (ResetReceived, SentReset::Answer, Some(ResetSent)),
            (LocalFin, SentReset::Answer, Some(ResetSent)),
            (Simultaneous, SentReset::Answer, Some(ResetSent)),
            (RemoteFin, SentReset::Answer, Some(ResetSent)),
            // Closed after shutdown(), with data unread or SO_LINGER 0
            (LocalFin, SentReset::Unasked, Some(Aborted)),
            (RemoteFin, SentReset::Unasked, Some(Aborted)),
            // That is how it was counted
            (Aborted, SentReset::Unasked, None),
            (Aborted, SentReset::Answer, None),
            (Timeout, SentReset::Unasked, None),
            (ResetReceived, SentReset::Unasked, None),
        ] {
            assert_eq!(counted.corrected(by), corrected, "{counted:?} {by:?}");
        }
    }

    #[test]
    fn a_correction_moves_one_count_and_only_of_the_socket_that_ended_last() {
        let mut counters = CloseCounters::default();
        for socket in [1, 2] {
            counters.fin_wait2_left(socket, 1000, false);
            counters.end(socket, LocalFin, true);
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
        counters.end(1, ResetReceived, false);
        let mut shown = counters;
        counters.correct(1, SentReset::Answer);
        shown.rise_to(&counters);
        assert_eq!((shown.of(ResetReceived), shown.of(ResetSent)), (1, 1));
        counters.end(2, ResetReceived, false);
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
