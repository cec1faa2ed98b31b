//! Sockets of which only the address is known.

use tcpstate_common::{Family, SocketFlags, SocketRecord, TcpState};

use super::{
    ACK_BACKLOG, COPIED_SEQ, IPPROTO_TCP, MISSING, MPTCP_FIRST, NET_INUM, RCV_NXT, RCV_TSTAMP,
    SK_DADDR, SK_DPORT, SK_FAMILY, SK_NET, SK_NUM, SK_PROTOCOL, SK_SOCKET, SK_STATE, SK_V6_DADDR,
    SND_UNA, WRITE_SEQ, copy, read,
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

    /// The TCP socket that this one is or, where it is of Multipath TCP, its first subflow.
    #[inline(always)]
    pub(super) fn tcp(self) -> Option<Self> {
        let protocol: u16 = read(self.0, &SK_PROTOCOL)?;
        if protocol == IPPROTO_MPTCP && MPTCP_FIRST.load() != MISSING {
            let first: u64 = read(self.0, &MPTCP_FIRST)?;
            return (first != 0).then_some(Self::at(first));
        }
        // A raw socket and one of netlink can have the same number there, but not the state of a
        // TCP socket or not the family.
        (protocol == IPPROTO_TCP && self.family().is_some()).then_some(self)
    }

    /// Who it is among the sockets that live at the same time.
    #[inline(always)]
    pub(crate) fn identity(self) -> u64 {
        self.0 as u64
    }

    /// The state, as it is at this moment.
    #[inline(always)]
    pub(crate) fn state(self) -> Option<TcpState> {
        TcpState::from_kernel(read(self.0, &SK_STATE)?)
    }

    #[inline(always)]
    fn family(self) -> Option<Family> {
        Family::from_kernel(read(self.0, &SK_FAMILY)?)
    }

    /// For a listener: how many sockets its accept queue holds.
    #[inline(always)]
    pub(crate) fn accept_queue_length(self) -> u32 {
        read(self.0, &ACK_BACKLOG).unwrap_or(0)
    }

    /// Everything there is to say of it but when its state began.
    #[inline(always)]
    pub(crate) fn describe(self, state: TcpState) -> Option<SocketRecord> {
        let family = self.family()?;
        let net: u64 = read(self.0, &SK_NET)?;
        let mut record = SocketRecord {
            socket: self.identity(),
            namespace: read(net as *const u8, &NET_INUM)?,
            local_port: read(self.0, &SK_NUM)?,
            family: family.to_kernel(),
            state: state as u8,
            ..SocketRecord::default()
        };
        if matches!(state, TcpState::CloseWait) {
            self.describe_connection(family, &mut record)?;
        }
        Some(record)
    }

    #[inline(always)]
    fn describe_connection(self, family: Family, record: &mut SocketRecord) -> Option<()> {
        let mut port = [0; 2];
        let address = match family {
            Family::Ipv4 => copy(self.0, &SK_DADDR, &mut record.remote_address[..4]),
            Family::Ipv6 => copy(self.0, &SK_V6_DADDR, &mut record.remote_address),
        };
        let complete = address & copy(self.0, &SK_DPORT, &mut port);
        record.remote_port = u16::from_be_bytes(port);
        let socket: u64 = read(self.0, &SK_SOCKET)?;
        if socket != 0 {
            record.flags = SocketFlags::ACCEPTED;
        }
        let difference = |of: u32, less: u32| of.wrapping_sub(less);
        record.unread = difference(read(self.0, &RCV_NXT)?, read(self.0, &COPIED_SEQ)?);
        record.unsent = difference(read(self.0, &WRITE_SEQ)?, read(self.0, &SND_UNA)?);
        // Sockets store the lower half.
        let now = clock::jiffies() as u32;
        record.last_ack_jiffies = difference(now, read(self.0, &RCV_TSTAMP)?);
        complete.then_some(())
    }
}
