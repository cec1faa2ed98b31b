//! Half-open connections, which the kernel keeps as request sockets.

use tcpstate_common::{Family, HalfOpen};

use super::{
    REQ_ACKED, REQ_RETRANSMITS, REQ_SENT, SK_DADDR, SK_V6_DADDR, Sock, read, read_at, read_or_zero,
};
use crate::clock;

/// The address of a `struct tcp_request_sock`, to the verifier a number.
#[derive(Clone, Copy)]
pub(crate) struct Request(*const u8);

impl Request {
    /// `sock` must be in state `NEW_SYN_RECV`: else what is read means nothing.
    #[inline(always)]
    pub(crate) fn of(sock: Sock) -> Self {
        Self(sock.identity() as *const u8)
    }

    /// Looks at it. What cannot be read is 0.
    #[inline(always)]
    pub(crate) fn look(self, family: Family) -> HalfOpen {
        let [retransmits] = read_or_zero(self.0, &REQ_RETRANSMITS);
        let bit = REQ_ACKED.load() as usize;
        let byte: u8 = read_at(self.0.wrapping_add(bit / 8)).unwrap_or(0);
        let sent_us: u64 = read(self.0, &REQ_SENT).unwrap_or(0);
        HalfOpen {
            is_acked: (byte >> (bit % 8)) & 1 != 0,
            retransmits,
            age_ms: age_ms(sent_us),
            peer: self.peer(family),
        }
    }

    /// A number that peers differ in. Of an IPv6 address the network counts, which is what one
    /// who floods cannot choose at will.
    #[inline(always)]
    fn peer(self, family: Family) -> u32 {
        match family {
            Family::Ipv4 => u32::from_ne_bytes(read_or_zero(self.0, &SK_DADDR)),
            Family::Ipv6 => {
                let [a, b, _, d]: [u32; 4] = read(self.0, &SK_V6_DADDR).unwrap_or_default();
                // Of one that stands for an IPv4 address, that.
                if a | b == 0 { d } else { a.rotate_left(7) ^ b }
            }
        }
    }
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a request is given up after minutes"
)]
fn age_ms(sent_us: u64) -> u32 {
    if sent_us == 0 {
        return 0;
    }
    ((clock::monotonic_ns() / 1000).saturating_sub(sent_us) / 1000) as u32
}
