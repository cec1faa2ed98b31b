//! How connections end.

use tcpstate_common::{EndFacts, TcpState};

use crate::kernel::{Sock, TcpSock};

/// A socket at its end.
pub(crate) struct EndedSocket {
    sock: Sock,
    /// Where it matters.
    pub(crate) tcp: Option<TcpSock>,
    /// Whether a reset was sent for it unasked, right before.
    is_reset_ahead: bool,
}

impl EndedSocket {
    #[inline(always)]
    pub(crate) fn new(sock: Sock, old: TcpState, is_reset_ahead: bool) -> Self {
        let tcp = match old {
            TcpState::LastAck | TcpState::Closing => sock.tcp(),
            _ => None,
        };
        Self {
            sock,
            tcp,
            is_reset_ahead,
        }
    }
}

impl EndFacts for EndedSocket {
    #[inline(always)]
    fn has_port(&self) -> bool {
        self.sock.has_port()
    }

    #[inline(always)]
    fn is_opener(&self) -> bool {
        self.sock.is_simultaneous_open()
    }

    #[inline(always)]
    fn has_fin_come(&self) -> bool {
        self.sock.fin_received()
    }

    #[inline(always)]
    fn is_orphan(&self) -> bool {
        self.sock.is_orphan()
    }

    #[inline(always)]
    fn is_reset_ahead(&self) -> bool {
        self.is_reset_ahead
    }

    #[inline(always)]
    fn is_fin_acknowledged(&self) -> bool {
        self.tcp.is_some_and(TcpSock::is_all_acknowledged)
    }
}
