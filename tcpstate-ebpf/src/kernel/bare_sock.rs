//! Sockets of which only the address is known.

use aya_ebpf::Global;
use tcpstate_common::{
    Family, ListenerRecord, SocketFlags, SocketRecord, TcpState, UnansweredRecord,
};

use super::{
    ACK_BACKLOG, COPIED_SEQ, MAX_ACK_BACKLOG, NET_INUM, PROBES_OUT, RCV_NXT, RCV_TSTAMP,
    REQ_QUEUE_LENGTH, SENT_AGAIN, SK_DADDR, SK_DPORT, SK_DROPS, SK_FAMILY, SK_NET, SK_NUM,
    SK_RCV_SADDR, SK_SOCKET, SK_STATE, SK_V6_DADDR, SK_V6_RCV_SADDR, SND_UNA, WRITE_SEQ,
    block::{Block, CACHE_LINE, Part},
    copy, distance_of, read,
};
use crate::clock;

/// The address of a `struct sock`, to the verifier a number.
#[derive(Clone, Copy)]
pub(crate) struct BareSock(*const u8);

impl BareSock {
    pub(crate) const fn at(address: u64) -> Self {
        Self(address as *const u8)
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

    /// What there is to say of it as a listening socket. It may be one no more, or be something
    /// else by now: its state tells.
    ///
    /// There may be ten thousand, and nobody has looked at them for long: what costs is each cache
    /// line that is touched. With IPv4 it is four.
    #[inline(always)]
    pub(crate) fn listener(self) -> Option<ListenerRecord> {
        let head = Block::<CACHE_LINE>::at(self.0)?;
        let accept = Part::<2>::from(self.0, &ACK_BACKLOG)?;
        let net: u64 = head.field(&SK_NET)?;
        let family = Family::from_kernel(head.field(&SK_FAMILY)?)?;
        let mut record = ListenerRecord {
            socket: self.identity(),
            namespace: read(net as *const u8, &NET_INUM).unwrap_or(0),
            port: head.field(&SK_NUM)?,
            family: family.to_kernel(),
            state: head.field(&SK_STATE)?,
            accept_queue: accept.field(&ACK_BACKLOG)?,
            accept_limit: accept.field(&MAX_ACK_BACKLOG)?,
            half_open: read(self.0, &REQ_QUEUE_LENGTH)?,
            drops: self.drops()?,
            ..ListenerRecord::default()
        };
        match family {
            Family::Ipv4 => {
                let address: [u8; 4] = head.field(&SK_RCV_SADDR)?;
                record.address[..4].copy_from_slice(&address);
            }
            Family::Ipv6 => copy(self.0, &SK_V6_RCV_SADDR, &mut record.address).then_some(())?,
        }
        Some(record)
    }

    /// What it has dropped, `sk_drops`; wraps around.
    #[inline(always)]
    pub(crate) fn drops(self) -> Option<u32> {
        read(self.0, &SK_DROPS)
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
    pub(crate) fn describe_connection(&self, record: &mut SocketRecord) -> Option<()> {
        let port: [u8; 2] = self.head.field(&SK_DPORT)?;
        record.remote_port = u16::from_be_bytes(port);
        self.remote_address(&mut record.remote_address)?;
        let is_accepted = read::<u64>(self.sock.0, &SK_SOCKET)? != 0;
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

    /// What there is to say of one whose peer does not answer. `None` where it may: nothing was
    /// sent again, and no probe is without an answer.
    #[inline(always)]
    pub(crate) fn unanswered(&self) -> Option<UnansweredRecord> {
        let probes = Part::<1>::from(self.sock.0, &SENT_AGAIN)?;
        let retransmits: u8 = probes.field(&SENT_AGAIN)?;
        let probes: u8 = probes.field(&PROBES_OUT)?;
        if retransmits | probes == 0 {
            return None;
        }
        let net: u64 = self.head.field(&SK_NET)?;
        let port: [u8; 2] = self.head.field(&SK_DPORT)?;
        let mut record = UnansweredRecord {
            namespace: read(net as *const u8, &NET_INUM)?,
            last_ack_jiffies: clock::jiffies().wrapping_sub(read(self.sock.0, &RCV_TSTAMP)?),
            unacknowledged: self.difference(&WRITE_SEQ, &SND_UNA)?,
            local_port: self.head.field(&SK_NUM)?,
            remote_port: u16::from_be_bytes(port),
            family: self.family.to_kernel(),
            state: self.state as u8,
            retransmits,
            probes,
            remote_address: [0; 16],
        };
        self.remote_address(&mut record.remote_address)?;
        Some(record)
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
