//! Sockets of which only the address is known.

use aya_ebpf::Global;
use tcpstate_common::{
    Family, SocketFlags, SocketRecord, TcpState,
};

use super::{
    ACK_BACKLOG, COPIED_SEQ, IPPROTO_TCP, MISSING, MPTCP_FIRST, NET_INUM, RCV_NXT, RCV_TSTAMP,
    SK_DADDR, SK_DPORT, SK_FAMILY, SK_NET, SK_NUM, SK_PROTOCOL, SK_SOCKET, SK_STATE, SK_V6_DADDR,
    SND_UNA, WRITE_SEQ,
    block::{Block, CACHE_LINE},
    copy, distance_of, read,
};
use crate::clock;

/// `IPPROTO_MPTCP`: a connection that has TCP sockets for its subflows.
const IPPROTO_MPTCP: u16 = 262;
/// The address of a `struct sock`, to the verifier a number.
#[derive(Clone, Copy)]
pub(crate) struct BareSock(*const u8);

impl BareSock {
    pub(crate) const fn at(address: u64) -> Self {
        Self(address as *const u8)
    }

    pub(super) const fn address(self) -> *const u8 {
        self.0
    }

    /// Who it is among the sockets that live at the same time.
    #[inline(always)]
    pub(crate) fn identity(self) -> u64 {
        self.0 as u64
    }

    /// [`Sock::key`](super::Sock::key) of the same socket.
    #[inline(always)]
    pub(crate) fn key(self) -> u64 {
        distance_of(self.identity())
    }

    /// Looks at it.
    #[inline(always)]
    pub(crate) fn look(self) -> Option<Look> {
        let head = Block::<CACHE_LINE>::at(self.0)?;
        let family = Family::from_kernel(head.field(&SK_FAMILY)?)?;
        let state = TcpState::from_kernel(head.field(&SK_STATE)?)?;
        Some(Look {
            sock: self,
            head,
            family,
            state,
        })
    }
}

/// A socket as it was when looked at.
pub(crate) struct Look {
    /// The socket.
    pub(crate) sock: BareSock,
    head: Block,
    family: Family,
    /// Its state.
    pub(crate) state: TcpState,
}

impl Look {
    /// The TCP socket that this one is or, where it is of Multipath TCP, its first subflow.
    #[inline(always)]
    pub(crate) fn tcp(self) -> Option<Self> {
        let protocol: u16 = read(self.sock.0, &SK_PROTOCOL)?;
        if protocol == IPPROTO_MPTCP && MPTCP_FIRST.load() != MISSING {
            let first: u64 = read(self.sock.0, &MPTCP_FIRST)?;
            return BareSock::at(first).look();
        }
        // A raw socket can have the same number there, but not the state of one that matters.
        (protocol == IPPROTO_TCP).then_some(self)
    }

    /// For a listener: how many sockets its accept queue holds.
    #[inline(always)]
    pub(crate) fn accept_queue_length(&self) -> u32 {
        read(self.sock.0, &ACK_BACKLOG).unwrap_or(0)
    }

    /// What there is to say of any socket.
    #[inline(always)]
    pub(crate) fn describe(&self) -> Option<SocketRecord> {
        let net: u64 = self.head.field(&SK_NET)?;
        Some(SocketRecord {
            socket: self.sock.identity(),
            namespace: read(net as *const u8, &NET_INUM)?,
            local_port: self.head.field(&SK_NUM)?,
            family: self.family.to_kernel(),
            state: self.state as u8,
            ..SocketRecord::default()
        })
    }

    /// What there is to say of one in CLOSE_WAIT, besides since when. What does not matter then
    /// is left at 0: each field is in a cache line of its own, which nobody has looked at for
    /// long.
    #[inline(always)]
    pub(crate) fn describe_connection(
        &self,
        record: &mut SocketRecord,
        is_accepted: bool,
    ) -> Option<()> {
        let port: [u8; 2] = self.head.field(&SK_DPORT)?;
        record.remote_port = u16::from_be_bytes(port);
        self.remote_address(&mut record.remote_address)?;
        let is_accepted = is_accepted || read::<u64>(self.sock.0, &SK_SOCKET)? != 0;
        if is_accepted {
            record.flags = SocketFlags::ACCEPTED;
        }
        record.unread = self.difference(&RCV_NXT, &COPIED_SEQ)?;
        if is_accepted && record.unread == 0 {
            record.unsent = self.difference(&WRITE_SEQ, &SND_UNA)?;
        }
        if record.since_ns == 0 {
            let now = clock::jiffies();
            record.last_ack_jiffies = now.wrapping_sub(read(self.sock.0, &RCV_TSTAMP)?);
        }
        Some(())
    }

    #[inline(always)]
    fn remote_address(&self, to: &mut [u8; 16]) -> Option<()> {
        match self.family {
            Family::Ipv4 => {
                let address: [u8; 4] = self.head.field(&SK_DADDR)?;
                to[..4].copy_from_slice(&address);
            }
            Family::Ipv6 => copy(self.sock.0, &SK_V6_DADDR, to).then_some(())?,
        }
        Some(())
    }

    #[inline(always)]
    fn difference(&self, of: &Global<u32>, less: &Global<u32>) -> Option<u32> {
        let of: u32 = read(self.sock.0, of)?;
        Some(of.wrapping_sub(read(self.sock.0, less)?))
    }
}
