//! The TCP states of the kernel, `enum` in [`include/net/tcp_states.h`].
//!
//! [`include/net/tcp_states.h`]: https://github.com/torvalds/linux/blob/v6.12/include/net/tcp_states.h

use crate::verifier::masked;

/// How many slots a table indexed by state has: a power of two above the greatest state, so that
/// `state & (STATE_SLOTS - 1)` is all the bounds check that the verifier needs.
pub const STATE_SLOTS: usize = 16;

/// A state of a TCP socket, with the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// Data can flow both ways.
    Established = 1,
    /// SYN sent, waiting for SYN-ACK.
    SynSent = 2,
    /// A full socket between SYN-ACK and the third ACK: a child just cloned from its listener, a
    /// fast-open child, or a simultaneous open.
    SynRecv = 3,
    /// Our FIN is sent and not yet acknowledged.
    FinWait1 = 4,
    /// Our FIN is acknowledged, the peer's has not come.
    FinWait2 = 5,
    /// Both FINs have passed; the kernel keeps a minisocket for twice the segment lifetime.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// The peer has closed, this side has not.
    CloseWait = 8,
    /// The peer closed first, our FIN is sent and not yet acknowledged.
    LastAck = 9,
    /// Waiting for connections.
    Listen = 10,
    /// Both sides sent FIN at once; ours is not yet acknowledged.
    Closing = 11,
    /// A request socket: SYN received, SYN-ACK sent, the third ACK awaited. It never passes the
    /// state tracepoint; only a walk of the hash table shows it.
    NewSynRecv = 12,
}

impl TcpState {
    /// Every state, in the kernel's order.
    pub const ALL: [Self; 12] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynRecv,
    ];

    /// The states that a socket can be found in, in the order of a connection's life.
    pub const FOUND: [Self; 10] = [
        Self::Listen,
        Self::SynSent,
        Self::SynRecv,
        Self::Established,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::Closing,
        Self::LastAck,
        Self::TimeWait,
    ];

    /// The state with the kernel's number `raw`, or `None` where the kernel has no such state.
    #[inline]
    #[must_use]
    pub const fn from_kernel(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynRecv,
            _ => return None,
        })
    }

    /// Where this state stands in a table of [`STATE_SLOTS`].
    #[inline(always)]
    #[must_use]
    pub fn slot(self) -> usize {
        masked::<STATE_SLOTS>(self as u64)
    }

    /// The name in metrics, in JSON and on the command line. A request socket is what people
    /// mean by SYN_RECV, so both kinds have one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv | Self::NewSynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
        }
    }
}
