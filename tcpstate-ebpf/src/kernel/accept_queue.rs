//! The sockets of a listener that no process has accepted yet.

use tcpstate_common::{QUEUE_WALKED, TcpState};

use super::{ACCEPT_HEAD, BareSock, REQ_NEXT, REQ_SK, SK_NUM, SK_STATE, read_or_zero};

/// `icsk_accept_queue` of a listener. A child has no pointer to its listener, so this is the only
/// way to tell which member of a REUSEPORT group it waits for.
#[derive(Clone, Copy)]
pub(crate) struct AcceptQueue(BareSock);

/// What was found in a queue.
pub(crate) struct Found {
    /// Sockets in CLOSE_WAIT.
    pub(crate) close_wait: u32,
    /// There may be more.
    pub(crate) is_cut: bool,
}

impl AcceptQueue {
    pub(crate) const fn of(listener: BareSock) -> Self {
        Self(listener)
    }

    /// Goes through the queue, which may change meanwhile.
    #[inline(always)]
    pub(crate) fn walk(self, port: u16) -> Found {
        let mut request = u64::from_ne_bytes(read_or_zero(self.0.address(), &ACCEPT_HEAD));
        let mut close_wait = 0;
        for _ in 0..QUEUE_WALKED {
            if request == 0 {
                break;
            }
            let at = request as *const u8;
            let child = u64::from_ne_bytes(read_or_zero(at, &REQ_SK)) as *const u8;
            let [state] = read_or_zero(child, &SK_STATE);
            // A request may have been freed under our hands and be something else by now.
            let local = u16::from_ne_bytes(read_or_zero(child, &SK_NUM));
            close_wait += is_equal(state.into(), TcpState::CloseWait as u32)
                & is_equal(local.into(), port.into());
            request = u64::from_ne_bytes(read_or_zero(at, &REQ_NEXT));
        }
        Found {
            close_wait,
            is_cut: request != 0,
        }
    }
}

/// 1 or 0, without a branch: to the verifier each one would be another path through the loop.
#[inline(always)]
fn is_equal(one: u32, other: u32) -> u32 {
    // Of small numbers, only 0 less 1 has the highest bit.
    core::hint::black_box(one ^ other).wrapping_sub(1) >> 31
}
