//! How the end of a socket is classified: by what it was when it left its last state, by its error,
//! and by whether this host sent a reset for it. One table.

use crate::{CloseReason, TcpState, verifier::masked};

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
    /// A router does not know how to route it.
    pub const EOPNOTSUPP: i32 = 95;
}

/// What a full socket was when it went to CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// This side was opening it: `SYN_SENT`, or `SYN_RECV` where both sides have.
    Connecting = 0,
    /// The same, without a local port.
    Portless = 1,
    /// `SYN_RECV` of a listener's child.
    Accepting = 2,
    /// Any other whose last segment was still to come: nothing ends in good order from there.
    Unfinished = 3,
    /// `FIN_WAIT2`, left by its process: a minisocket waits for the peer's FIN.
    HandedOver = 4,
    /// `FIN_WAIT2`, and the peer's FIN has come.
    ClosedFirst = 5,
    /// `LAST_ACK`, and the peer has acknowledged this side's FIN.
    ClosedSecond = 6,
    /// `CLOSING`, and the same.
    ClosedAtOnce = 7,
}

/// What the kernel knows of a socket at its end. Each is asked for only where it matters.
pub trait EndFacts {
    /// Whether it has, or had, a local port. Of `SYN_SENT`.
    fn has_port(&self) -> bool;
    /// Whether this side opened the connection. Of `SYN_RECV`.
    fn is_opener(&self) -> bool;
    /// Whether the peer's FIN has come. Of `FIN_WAIT2`.
    fn has_fin_come(&self) -> bool;
    /// Whether its process has let go of it. Of `FIN_WAIT2`.
    fn is_orphan(&self) -> bool;
    /// Whether a reset was sent for it unasked, right before. Of `FIN_WAIT2`.
    fn is_reset_ahead(&self) -> bool;
    /// Whether the peer has acknowledged the FIN. Of `CLOSING` and `LAST_ACK`.
    fn is_fin_acknowledged(&self) -> bool;
}

impl Stage {
    const COUNT: u8 = 8;

    /// What a socket was that goes from `old` to CLOSE; `None` for a listener.
    ///
    /// The kernel ends a connection in good order in the segment that completes it, so whether
    /// that has come tells it from whatever else ends one in the same state: a system call
    /// (`SO_LINGER` 0, unread data), a timer, a reset.
    #[inline(always)]
    #[must_use]
    pub fn of(old: TcpState, facts: &impl EndFacts) -> Option<Self> {
        Some(match old {
            TcpState::Listen => return None,
            TcpState::SynSent if !facts.has_port() => Self::Portless,
            TcpState::SynSent => Self::Connecting,
            TcpState::SynRecv if facts.is_opener() => Self::Connecting,
            TcpState::SynRecv => Self::Accepting,
            TcpState::FinWait2 if facts.has_fin_come() => Self::ClosedFirst,
            TcpState::FinWait2 if facts.is_orphan() && !facts.is_reset_ahead() => Self::HandedOver,
            TcpState::LastAck if facts.is_fin_acknowledged() => Self::ClosedSecond,
            TcpState::Closing if facts.is_fin_acknowledged() => Self::ClosedAtOnce,
            _ => Self::Unfinished,
        })
    }
}

/// What the error of a socket says.
#[derive(Clone, Copy)]
#[repr(u8)]
enum ErrorKind {
    None = 0,
    Reset = 1,
    Pipe = 2,
    Aborted = 3,
    TimedOut = 4,
    Refused = 5,
    Unreachable = 6,
    Other = 7,
}

impl ErrorKind {
    const COUNT: u8 = 8;
    /// Errors that are in the table; a power of two.
    const ERRNOS: usize = 128;

    /// A table and no `match`, which would be a search.
    const OF_ERRNO: [u8; Self::ERRNOS] = {
        let mut kinds = [Self::Other as u8; Self::ERRNOS];
        kinds[0] = Self::None as u8;
        let known = [
            (errno::ECONNRESET, Self::Reset),
            (errno::EPIPE, Self::Pipe),
            (errno::ECONNABORTED, Self::Aborted),
            (errno::ETIMEDOUT, Self::TimedOut),
            (errno::ECONNREFUSED, Self::Refused),
            // What ICMP and routing make of not reaching the peer.
            (errno::EACCES, Self::Unreachable),
            (errno::ENONET, Self::Unreachable),
            (errno::EPROTO, Self::Unreachable),
            (errno::ENOPROTOOPT, Self::Unreachable),
            (errno::EOPNOTSUPP, Self::Unreachable),
            (errno::ENETUNREACH, Self::Unreachable),
            (errno::EHOSTDOWN, Self::Unreachable),
            (errno::EHOSTUNREACH, Self::Unreachable),
        ];
        let mut index = 0;
        while index < known.len() {
            let (error, kind) = known[index];
            kinds[error.cast_unsigned() as usize] = kind as u8;
            index += 1;
        }
        kinds
    };
}

static KIND_OF_ERRNO: [u8; ErrorKind::ERRNOS] = ErrorKind::OF_ERRNO;

/// What a reset that this host sends says of a socket that went to CLOSE just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SentReset {
    /// It answers a segment.
    Answer = 1,
    /// It comes of what this host did of its own.
    Unasked = 2,
    /// It answers the segment that acknowledged the FIN, because the process wanted no
    /// `FIN_WAIT2` (`TCP_LINGER2` below 0).
    Unwanted = 3,
}

/// For each thing that can be sent after the end, nothing first and then as [`SentReset`].
type Reasons = [CloseReason; 4];

/// How a socket ended: a [`Stage`] and an error, as a place in the table of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending(u8);

const ENDINGS: usize = (Stage::COUNT * ErrorKind::COUNT) as usize;

/// By [`Stage`] and the kind of error, in the order none, reset, pipe, aborted, timed out, refused,
/// unreachable, other.
///
/// What ICMP has said is fatal to a socket that is connecting. Later it is only kept
/// (`sk_err_soft`) and takes the place of the time-out when retransmissions are given up
/// (`tcp_write_err()`), or with `IP_RECVERR` waits in `sk_err` to be read: an end that a segment
/// brought about, or that a reset follows, has nothing to do with it.
static REASONS: [Reasons; ENDINGS] = {
    use CloseReason::{
        Aborted, ConnectAbandoned, ConnectNoPort, ConnectRefused, ConnectReset, ConnectTimeout,
        HandshakeFailed, LocalFin, Other, RemoteFin, ResetReceived, ResetSent, Simultaneous,
        Timeout,
    };
    const fn always(reason: CloseReason) -> Reasons {
        [reason; 4]
    }
    /// The kernel closes a socket before it sends the reset for it.
    const fn in_order(reason: CloseReason) -> Reasons {
        [reason, ResetSent, Aborted, Aborted]
    }
    /// Data for what the process has closed goes the way of a reset that was received.
    const RESET: Reasons = [ResetReceived, ResetSent, ResetReceived, ResetSent];
    const TIMEOUT: Reasons = [Timeout, Timeout, Aborted, Timeout];
    const ABORTED: Reasons = always(Aborted);
    const OTHER: Reasons = always(Other);
    const FAILED: Reasons = always(HandshakeFailed);
    const FIRST: Reasons = in_order(LocalFin);
    const SECOND: Reasons = in_order(RemoteFin);
    const AT_ONCE: Reasons = in_order(Simultaneous);
    const ABANDONED: Reasons = always(ConnectAbandoned);
    const NO_PORT: Reasons = always(ConnectNoPort);
    const C_RESET: Reasons = always(ConnectReset);
    const C_TIMEOUT: Reasons = always(ConnectTimeout);
    const REFUSED: Reasons = always(ConnectRefused);
    #[rustfmt::skip]
    const TABLE: [Reasons; ENDINGS] = [
        // none     reset    pipe     aborted  timed out  refused  unreachable other
        ABANDONED, C_RESET, OTHER,   ABORTED, C_TIMEOUT, REFUSED, OTHER,   OTHER,   // connecting
        NO_PORT,   C_RESET, OTHER,   ABORTED, C_TIMEOUT, REFUSED, OTHER,   OTHER,   // portless
        FAILED,    FAILED,  FAILED,  FAILED,  FAILED,    FAILED,  FAILED,  FAILED,  // accepting
        ABORTED,   RESET,   RESET,   ABORTED, TIMEOUT,   TIMEOUT, TIMEOUT, OTHER,   // unfinished
        FIRST,     RESET,   RESET,   ABORTED, FIRST,     FIRST,   FIRST,   FIRST,   // handed over
        FIRST,     FIRST,   FIRST,   FIRST,   FIRST,     FIRST,   FIRST,   FIRST,   // closed first
        SECOND,    SECOND,  SECOND,  SECOND,  SECOND,    SECOND,  SECOND,  SECOND,  // closed second
        AT_ONCE,   AT_ONCE, AT_ONCE, AT_ONCE, AT_ONCE,   AT_ONCE, AT_ONCE, AT_ONCE, // closed at once
    ];
    TABLE
};

impl Ending {
    /// The end of a socket that was this and whose `sk_err` is `error`, a positive errno or 0.
    #[inline(always)]
    #[must_use]
    pub fn new(stage: Stage, error: i32) -> Self {
        // No error is negative, and none is believed.
        let error = error.cast_unsigned();
        let kind = if (error as usize) < ErrorKind::ERRNOS {
            KIND_OF_ERRNO[masked::<{ ErrorKind::ERRNOS }>(error.into())]
        } else {
            ErrorKind::Other as u8
        };
        Self::of(stage, kind)
    }

    /// The end of a socket that was this and has no error.
    #[inline(always)]
    pub(crate) const fn without_error(stage: Stage) -> Self {
        Self::of(stage, ErrorKind::None as u8)
    }

    #[inline(always)]
    const fn of(stage: Stage, kind: u8) -> Self {
        Self(stage as u8 * ErrorKind::COUNT + kind)
    }

    /// The reason, as far as it is known when the socket goes to CLOSE.
    #[inline(always)]
    #[must_use]
    pub fn reason(self) -> CloseReason {
        self.reasons()[0]
    }

    /// What it was indeed, where right after it the host sends this reset for the same socket.
    /// `None` where that changes nothing.
    #[inline(always)]
    #[must_use]
    pub fn corrected(self, by: SentReset) -> Option<CloseReason> {
        let corrected = self.reasons()[masked::<4>(by as u64)];
        (corrected as u8 != self.reason() as u8).then_some(corrected)
    }

    /// Whether a minisocket in `FIN_WAIT2` takes its place.
    #[inline(always)]
    #[must_use]
    pub fn is_handed_over(self) -> bool {
        self.is(Stage::HandedOver) && matches!(self.reason(), CloseReason::LocalFin)
    }

    /// Whether it was this.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, stage: Stage) -> bool {
        self.0 / ErrorKind::COUNT == stage as u8
    }

    /// The number by which it is kept.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// The one that has the number `raw`.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(raw: u32) -> Self {
        let [number, ..] = raw.to_le_bytes();
        Self(number % (Stage::COUNT * ErrorKind::COUNT))
    }

    #[inline(always)]
    fn reasons(self) -> &'static Reasons {
        &REASONS[masked::<ENDINGS>(self.0.into())]
    }
}

const _: () = {
    assert!(size_of_val(&REASONS) == 256);
    assert!(Stage::ClosedAtOnce as u8 + 1 == Stage::COUNT);
};

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use CloseReason::{
        Aborted, ConnectAbandoned, ConnectNoPort, ConnectRefused, ConnectReset, ConnectTimeout,
        HandshakeFailed, LocalFin, Other, RemoteFin, ResetReceived, ResetSent, Simultaneous,
        Timeout,
    };
    use SentReset::{Answer, Unasked, Unwanted};
    use TcpState::{
        CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    };

    /// A socket of which nothing is known that matters elsewhere than in its own state.
    #[expect(
        clippy::struct_excessive_bools,
        reason = "each is told of a socket by itself"
    )]
    #[derive(Clone, Copy, Debug)]
    struct Facts {
        has_no_port: bool,
        is_opener: bool,
        has_fin_come: bool,
        is_orphan: bool,
        is_reset_ahead: bool,
        is_fin_acknowledged: bool,
    }

    impl EndFacts for Facts {
        fn has_port(&self) -> bool {
            !self.has_no_port
        }

        fn is_opener(&self) -> bool {
            self.is_opener
        }

        fn has_fin_come(&self) -> bool {
            self.has_fin_come
        }

        fn is_orphan(&self) -> bool {
            self.is_orphan
        }

        fn is_reset_ahead(&self) -> bool {
            self.is_reset_ahead
        }

        fn is_fin_acknowledged(&self) -> bool {
            self.is_fin_acknowledged
        }
    }

    const PLAIN: Facts = Facts {
        has_no_port: false,
        is_opener: false,
        has_fin_come: false,
        is_orphan: false,
        is_reset_ahead: false,
        is_fin_acknowledged: false,
    };
    const ORPHAN: Facts = Facts {
        is_orphan: true,
        ..PLAIN
    };
    const RESET_AHEAD: Facts = Facts {
        is_reset_ahead: true,
        ..ORPHAN
    };
    const FIN_CAME: Facts = Facts {
        has_fin_come: true,
        ..PLAIN
    };
    const FIN_CAME_FOR_AN_ORPHAN: Facts = Facts {
        has_fin_come: true,
        ..ORPHAN
    };
    const ACKNOWLEDGED: Facts = Facts {
        is_fin_acknowledged: true,
        ..PLAIN
    };
    const OPENER: Facts = Facts {
        is_opener: true,
        ..PLAIN
    };
    const NO_PORT: Facts = Facts {
        has_no_port: true,
        ..PLAIN
    };

    /// Every error that TCP leaves, one of each kind that ICMP makes, and one that it does not make.
    const ERRORS: [i32; 8] = [0, 104, 32, 103, 110, 111, 113, 5];

    type Made = (
        &'static [TcpState],
        &'static [Facts],
        &'static [i32],
        Option<SentReset>,
        CloseReason,
    );

    /// What the kernel can make: the state, what is known of the socket, the errors that it can have
    /// there, the reset that follows, and the reason.
    #[rustfmt::skip]
    const MADE: &[Made] = &[
        // connect(): a reset or ICMP's port unreachable, nobody, the process, no port, no route, ss -K
        (&[SynSent], &[PLAIN], &[111], None, ConnectRefused),
        (&[SynSent], &[PLAIN, NO_PORT], &[110], None, ConnectTimeout),
        (&[SynSent], &[PLAIN], &[0], None, ConnectAbandoned),
        (&[SynSent], &[NO_PORT], &[0], None, ConnectNoPort),
        (&[SynSent], &[PLAIN], &[104], None, ConnectReset),
        (&[SynSent], &[PLAIN], &[13, 64, 71, 92, 95, 101, 112, 113], None, Other),
        (&[SynSent], &[PLAIN], &[103], None, Aborted),
        // A simultaneous open
        (&[SynRecv], &[OPENER], &[104], None, ConnectReset),
        (&[SynRecv], &[OPENER], &[110], None, ConnectTimeout),
        (&[SynRecv], &[OPENER], &[0], Some(Unasked), ConnectAbandoned),
        (&[SynRecv], &[OPENER], &[0], None, ConnectAbandoned),
        (&[SynRecv], &[OPENER], &[111], None, ConnectRefused),
        // A listener's child, fast open's among them: a reset, the timer, its process, ss -K, ICMP
        (&[SynRecv], &[PLAIN, ORPHAN], &[0, 103, 104, 110, 111, 113], None, HandshakeFailed),
        (&[SynRecv], &[PLAIN, ORPHAN], &[0], Some(Unasked), HandshakeFailed),
        // In good order, also with an error that waits to be read
        (&[FinWait2], &[FIN_CAME, FIN_CAME_FOR_AN_ORPHAN], &[0, 111, 113], None, LocalFin),
        (&[FinWait2], &[ORPHAN], &[0, 111, 113], None, LocalFin),
        (&[LastAck], &[ACKNOWLEDGED], &[0, 111, 113], None, RemoteFin),
        (&[Closing], &[ACKNOWLEDGED], &[0, 111, 113], None, Simultaneous),
        // tcp_reset()
        (&[Established, FinWait1, FinWait2, Closing, LastAck], &[PLAIN, ORPHAN], &[104], None, ResetReceived),
        (&[CloseWait], &[PLAIN], &[32], None, ResetReceived),
        // Data for what the process has closed: the same way, or right behind the ACK of the FIN
        (&[FinWait1, FinWait2], &[PLAIN, ORPHAN], &[104], Some(Answer), ResetSent),
        (&[FinWait2], &[ORPHAN], &[0], Some(Answer), ResetSent),
        // TCP_LINGER2 below 0: close() in FIN_WAIT2, or the ACK of the FIN later
        (&[FinWait2], &[ORPHAN], &[0], Some(Unasked), Aborted),
        (&[FinWait2], &[ORPHAN], &[0], Some(Unwanted), Aborted),
        // tcp_keepalive_timer() of an orphan
        (&[FinWait2], &[RESET_AHEAD], &[0], None, Aborted),
        // SO_LINGER 0, unread data, connect(AF_UNSPEC), a listener closed, too many orphans
        (&[Established, FinWait1, CloseWait, FinWait2], &[PLAIN], &[0, 111, 113], Some(Unasked), Aborted),
        (&[Established, FinWait1, CloseWait, FinWait2, Closing, LastAck], &[PLAIN], &[0], None, Aborted),
        (&[FinWait1, Closing, LastAck], &[ORPHAN], &[0], None, Aborted),
        (&[Closing, LastAck], &[PLAIN], &[0, 111, 113], Some(Unasked), Aborted),
        // ss -K
        (&[Established, FinWait1, FinWait2, CloseWait, Closing, LastAck], &[PLAIN, ORPHAN], &[103], None, Aborted),
        // tcp_write_err(), with what ICMP had said if it had
        (&[Established, FinWait1, CloseWait, Closing, LastAck], &[PLAIN, ORPHAN], &[110, 13, 64, 71, 92, 95, 101, 111, 112, 113], None, Timeout),
        (&[FinWait2], &[PLAIN], &[110, 101, 113], None, Timeout),
        // An error that TCP does not make
        (&[Established], &[PLAIN], &[5, 4095], None, Other),
    ];

    fn ending(old: TcpState, facts: Facts, error: i32) -> Ending {
        Ending::new(Stage::of(old, &facts).unwrap(), error)
    }

    #[test]
    fn every_way_that_the_kernel_ends_a_connection_has_its_reason() {
        for (states, sockets, errors, sent, reason) in MADE {
            for old in *states {
                for facts in *sockets {
                    for error in *errors {
                        let ending = ending(*old, *facts, *error);
                        let found = sent
                            .and_then(|by| ending.corrected(by))
                            .unwrap_or(ending.reason());
                        assert_eq!(found, *reason, "{old:?} {facts:?} {error} {sent:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_state_is_among_them_with_every_error_that_tcp_leaves_there() {
        let all = [
            SynSent,
            SynRecv,
            Established,
            FinWait1,
            FinWait2,
            CloseWait,
            Closing,
            LastAck,
        ];
        for old in all {
            let mut errors: Vec<i32> = MADE
                .iter()
                .filter(|(states, ..)| states.contains(&old))
                .flat_map(|(_, _, errors, ..)| errors.iter().copied())
                .collect();
            errors.sort_unstable();
            let reset = if old == CloseWait { 32 } else { 104 };
            for error in [0, reset, 103, 110, 111, 113] {
                assert!(errors.binary_search(&error).is_ok(), "{old:?} {error}");
            }
        }
    }

    #[test]
    fn a_fin_that_was_not_acknowledged_ends_nothing_in_good_order() {
        for old in [Closing, LastAck, FinWait1, Established, CloseWait] {
            for error in ERRORS {
                assert!(!ending(old, PLAIN, error).reason().is_normal(), "{old:?}");
            }
        }
    }

    #[test]
    fn what_does_not_matter_in_a_state_changes_nothing_there() {
        for old in [Established, FinWait1, CloseWait, Closing, LastAck] {
            for facts in [NO_PORT, OPENER, ORPHAN, RESET_AHEAD, FIN_CAME] {
                for error in ERRORS {
                    assert_eq!(ending(old, facts, error), ending(old, PLAIN, error));
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_listener_is_the_end_of_no_connection() {
        for facts in [PLAIN, ORPHAN, NO_PORT] {
            assert_eq!(Stage::of(Listen, &facts), None);
        }
    }

    #[test]
    fn only_what_a_minisocket_takes_over_is_handed_over() {
        assert!(ending(FinWait2, ORPHAN, 0).is_handed_over());
        for (facts, error) in [(ORPHAN, 104), (PLAIN, 0), (RESET_AHEAD, 0), (FIN_CAME, 0)] {
            assert!(
                !ending(FinWait2, facts, error).is_handed_over(),
                "{facts:?}"
            );
        }
    }

    #[test]
    fn any_errno_has_a_kind_and_any_number_is_an_ending() {
        for error in 0..=4095 {
            let ending = ending(Established, PLAIN, error);
            assert_eq!(Ending::from_number(ending.number()), ending);
        }
        for raw in [64, 255, u32::MAX] {
            assert!((Ending::from_number(raw).number() as usize) < ENDINGS);
        }
    }
}
