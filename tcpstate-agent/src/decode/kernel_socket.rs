//! What a copy of one of the kernel's sockets says.

use std::net::SocketAddr;

use tcpstate_common::{Family, HalfOpen, TcpState};

use super::{CloseWaitSocket, address, object::Object};
use crate::{
    collect::unanswered::{Silence, Unanswered},
    kernel::layout::{CommonLayout, Field, Layout},
};

/// What every kind of socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSocket {
    /// Tells the socket from all others that live at the same time.
    pub socket: u64,
    /// The address of its network namespace.
    pub net: u64,
    /// Its family.
    pub family: Family,
    /// Its state: `TimeWait` for every timewait minisocket, `NewSynRecv` for what is half open.
    pub state: TcpState,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
}

impl KernelSocket {
    /// Reads it. `None` where family or state are none of TCP's.
    #[inline]
    #[must_use]
    pub fn of(object: &Object<'_>, layout: &CommonLayout) -> Option<Self> {
        Some(Self {
            socket: object.address,
            net: object.number_or_zero(layout.net),
            family: Family::from_kernel(object.number16(layout.family))?,
            state: TcpState::from_kernel(object.number8(layout.state))?,
            local_port: object.number16(layout.local_port),
            remote_port: u16::from_be(object.number16(layout.remote_port)),
        })
    }

    /// The local address as it goes over the wire; IPv4 fills the first four bytes.
    #[must_use]
    pub fn local_address(&self, object: &Object<'_>, layout: &CommonLayout) -> [u8; 16] {
        raw_address(self.family, object, layout.local, layout.local6)
    }

    /// The remote address, likewise.
    #[must_use]
    pub fn remote_address(&self, object: &Object<'_>, layout: &CommonLayout) -> [u8; 16] {
        raw_address(self.family, object, layout.remote, layout.remote6)
    }

    /// The peer.
    #[must_use]
    pub fn remote(&self, object: &Object<'_>, layout: &CommonLayout) -> SocketAddr {
        let remote = address(self.family, self.remote_address(object, layout));
        SocketAddr::new(remote, self.remote_port)
    }

    /// What there is to say of one in CLOSE_WAIT, in the namespace with this inode number. `now` is
    /// the lower half of `jiffies`.
    #[must_use]
    pub fn close_wait(
        &self,
        object: &Object<'_>,
        layout: &Layout,
        namespace: u32,
        since_ns: Option<u64>,
        now: u32,
    ) -> CloseWaitSocket {
        let sock = &layout.sock;
        CloseWaitSocket {
            socket: self.socket,
            namespace,
            since_ns,
            last_ack_jiffies: now.wrapping_sub(object.number32(sock.last_ack)),
            // Looked at where a process holds it: see `HeldLayout`.
            last_data_jiffies: None,
            last_sent_jiffies: None,
            unread: difference(object, sock.received_next, sock.copied),
            unsent: difference(object, sock.written, sock.unacknowledged),
            is_accepted: object.number_or_zero(sock.socket) != 0,
            local_port: self.local_port,
            remote: self.remote(object, &layout.common),
            cgroup: sock
                .cgroup
                .map_or(0, |field| cgroup(object.number_or_zero(field))),
        }
    }

    /// What there is to say of one that waits for its peer: something was sent again, or asked, and there
    /// is no answer yet, or a process has closed its side and the peer has not. `now` is the lower half
    /// of `jiffies`, `now_ns` what `CLOCK_MONOTONIC` says.
    #[must_use]
    pub fn unanswered(
        &self,
        object: &Object<'_>,
        layout: &Layout,
        namespace: u32,
        (now, now_ns): (u32, u64),
    ) -> Option<Unanswered> {
        let sock = &layout.sock;
        let attempts = object
            .number8(sock.retransmits)
            .max(object.number8(sock.probes));
        let is_held = object.number_or_zero(sock.socket) != 0;
        // What no process holds any more the kernel ends itself.
        let waits = match self.state {
            TcpState::FinWait2 => is_held,
            _ => attempts > 0,
        };
        if !waits {
            return None;
        }
        let silent = match self.state {
            TcpState::SynSent => {
                #[expect(clippy::cast_possible_truncation, reason = "as sockets store it")]
                let millis = (now_ns / 1_000_000) as u32;
                Silence::SinceSyn(millis.wrapping_sub(object.number32(sock.first_sent)))
            }
            _ => Silence::SinceAck(now.wrapping_sub(object.number32(sock.last_ack))),
        };
        let remote = self.remote(object, &layout.common);
        Some(Unanswered {
            socket: self.socket,
            namespace,
            state: self.state,
            local_port: self.local_port,
            remote: SocketAddr::new(remote.ip().to_canonical(), remote.port()),
            silent,
            unacknowledged: difference(object, sock.written, sock.unacknowledged),
            attempts,
        })
    }

    /// What there is to say of one that is half open, when `CLOCK_MONOTONIC` says `now_ns`.
    #[must_use]
    pub fn half_open(&self, object: &Object<'_>, layout: &Layout, now_ns: u64) -> HalfOpen {
        let request = &layout.request;
        let sent_us = object.number_or_zero(request.sent);
        let age_ms = (now_ns / 1000).saturating_sub(sent_us) / 1000;
        HalfOpen {
            is_acked: object.is_set(request.acked),
            retransmits: object.number8(request.retransmits),
            age_ms: if sent_us == 0 {
                0
            } else {
                u32::try_from(age_ms).unwrap_or(u32::MAX)
            },
            peer: peer(self.family, self.remote_address(object, &layout.common)),
        }
    }
}

/// A number that peers differ in. Of an IPv6 address the network counts, which is what one who
/// floods cannot choose at will.
fn peer(family: Family, address: [u8; 16]) -> u32 {
    let word = |at: usize| {
        let bytes = address
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        u32::from_ne_bytes(bytes.unwrap_or([0; 4]))
    };
    match family {
        Family::Ipv4 => word(0),
        // Of one that stands for an IPv4 address, that.
        Family::Ipv6 if word(0) | word(4) == 0 => word(12),
        Family::Ipv6 => word(0).rotate_left(7) ^ word(4),
    }
}

fn raw_address(family: Family, object: &Object<'_>, ipv4: Field, ipv6: Field) -> [u8; 16] {
    match family {
        Family::Ipv4 => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&object.array::<4>(ipv4));
            bytes
        }
        Family::Ipv6 => object.array(ipv6),
    }
}

/// The address in a `struct sock_cgroup_data`; 0 where that has something else. Before Linux 5.15 the
/// lowest bit says so, and the next one whether the socket counts as a user of the cgroup.
const fn cgroup(word: u64) -> u64 {
    if word & 1 == 0 { word & !3 } else { 0 }
}

/// How far one sequence number is behind another.
fn difference(object: &Object<'_>, of: Field, less: Field) -> u32 {
    object.number32(of).wrapping_sub(object.number32(less))
}
