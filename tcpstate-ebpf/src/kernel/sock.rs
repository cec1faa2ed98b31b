//! Sockets that the kernel handed to the program, as pointers whose type the verifier knows.

use core::ptr::NonNull;

use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use tcpstate_common::Family;

use super::{
    DATA_SEGMENTS_IN, INET_SPORT, IPPROTO_TCP, LINGER2, MAX_ACK_BACKLOG, MISSING, NET_INUM,
    SK_DADDR, SK_DPORT, SK_ERR, SK_FAMILY, SK_FLAGS, SK_NET, SK_PROTOCOL, SK_RCV_SADDR, SK_SOCKET,
    SK_STATE, SK_V6_DADDR, SK_V6_RCV_SADDR, SND_UNA, SRTT, TCP_CLOCK, TOTAL_RETRANSMITS, WRITE_SEQ,
    as_number, copy, distance, load, read,
};

/// `SOCK_DEAD`, the bit of `enum sock_flags` that `sock_orphan()` sets when the process has closed.
const SOCK_DEAD: u64 = 1;
/// `SOCK_DONE`, the bit of `enum sock_flags` that `tcp_fin()` sets when the peer's FIN has come.
const SOCK_DONE: u64 = 1 << 1;

/// A `struct sock` that the kernel handed to the program.
#[derive(Clone, Copy)]
pub(crate) struct Sock(*const u8);

impl Sock {
    /// # Safety
    ///
    /// `sk` must be a `struct sock` or `struct sock_common` pointer that the verifier knows by
    /// its BTF type and as not null.
    #[inline(always)]
    pub(crate) unsafe fn new(sk: *const u8) -> Self {
        Self(sk)
    }

    /// Whether this is a TCP socket. Only for full sockets.
    #[inline(always)]
    pub(crate) fn is_tcp(self) -> bool {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        let protocol: u16 = unsafe { load(self.0, &SK_PROTOCOL) };
        protocol == IPPROTO_TCP
    }

    /// The family, if it is one that TCP has.
    #[inline(always)]
    pub(crate) fn family(self) -> Option<Family> {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        Family::from_kernel(unsafe { load(self.0, &SK_FAMILY) })
    }

    /// The state as a raw number, as it is at this moment.
    #[inline(always)]
    pub(crate) fn raw_state(self) -> u8 {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        unsafe { load(self.0, &SK_STATE) }
    }

    /// Inode number of the socket's network namespace.
    #[inline(always)]
    pub(crate) fn namespace(self) -> u32 {
        // SAFETY: `self.0` is a BTF pointer, see `new`; what is loaded is the `struct net *` of a
        // live socket, which the verifier knows by its type in turn.
        let net: *const u8 = unsafe { load(self.0, &SK_NET) };
        // SAFETY: `net` is a BTF pointer, see above.
        unsafe { load(net, &NET_INUM) }
    }

    /// A number that tells the socket's network namespace from every other that lives at the same
    /// time, and is had without a look at the namespace. Not its address.
    #[inline(always)]
    pub(crate) fn namespace_key(self) -> u64 {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        distance(unsafe { load(self.0, &SK_NET) })
    }

    /// `sk_err`, a positive errno or 0.
    #[inline(always)]
    pub(crate) fn error(self) -> i32 {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        unsafe { load(self.0, &SK_ERR) }
    }

    /// Whether the peer's FIN has been received.
    #[inline(always)]
    pub(crate) fn fin_received(self) -> bool {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        let flags: u64 = unsafe { load(self.0, &SK_FLAGS) };
        flags & SOCK_DONE != 0
    }

    /// Whether the process has let go of it.
    #[inline(always)]
    pub(crate) fn is_orphan(self) -> bool {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        let flags: u64 = unsafe { load(self.0, &SK_FLAGS) };
        flags & SOCK_DEAD != 0
    }

    /// Whether this is in `SYN_RECV` because both sides have opened it: it is a process's, and no
    /// child of a listener that a fast open has handed out early, whose place in the queue that
    /// was copied with all else.
    #[inline(always)]
    pub(crate) fn is_simultaneous_open(self) -> bool {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        let queue_limit: u32 = unsafe { load(self.0, &MAX_ACK_BACKLOG) };
        queue_limit == 0 && read::<u64>(self.0, &SK_SOCKET).is_some_and(|socket| socket != 0)
    }

    /// Whether it has, or had, a local port.
    #[inline(always)]
    pub(crate) fn has_port(self) -> bool {
        read::<u16>(self.0, &INET_SPORT).is_none_or(|port| port != 0)
    }

    /// A number that tells this socket from every other that lives at the same time, and is had at
    /// next to no cost. Not its address.
    #[inline(always)]
    pub(crate) fn key(self) -> u64 {
        distance(self.0)
    }

    /// A number that tells this socket from every other that lives at the same time.
    #[inline(always)]
    pub(crate) fn identity(self) -> u64 {
        as_number(self.0)
    }

    /// Writes both addresses as they go over the wire; IPv4 fills the first four bytes.
    /// `false` where one could not be read.
    #[inline(always)]
    pub(crate) fn addresses(
        self,
        family: Family,
        local: &mut [u8; 16],
        remote: &mut [u8; 16],
    ) -> bool {
        match family {
            Family::Ipv4 => {
                copy(self.0, &SK_RCV_SADDR, &mut local[..4])
                    & copy(self.0, &SK_DADDR, &mut remote[..4])
            }
            Family::Ipv6 => {
                copy(self.0, &SK_V6_RCV_SADDR, local) & copy(self.0, &SK_V6_DADDR, remote)
            }
        }
    }

    /// The same as what the verifier lets read TCP's own fields of. Full TCP sockets are that.
    #[inline(always)]
    pub(crate) fn tcp(self) -> Option<TcpSock> {
        // SAFETY: the helper takes a `struct sock_common *` and gives null where it is no TCP
        // socket.
        let tcp = unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) };
        NonNull::new(tcp).map(|tcp| TcpSock(tcp.cast()))
    }

    /// Local and remote port. `inet_sport` and not `skc_num`, which is already 0 when a socket
    /// goes to CLOSE.
    #[inline(always)]
    pub(crate) fn ports(self) -> Option<(u16, u16)> {
        let (mut local, mut remote) = ([0; 2], [0; 2]);
        let complete = copy(self.0, &INET_SPORT, &mut local) & copy(self.0, &SK_DPORT, &mut remote);
        complete.then(|| (u16::from_be_bytes(local), u16::from_be_bytes(remote)))
    }
}

/// A `struct tcp_sock *` that the verifier knows as such and as not null.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock(NonNull<u8>);

impl TcpSock {
    /// The round trip time as smoothed by the kernel, microseconds; 0 where none was measured.
    #[inline(always)]
    pub(crate) fn round_trip_us(self) -> u32 {
        // SAFETY: `self.0` is a BTF pointer.
        let eighths: u32 = unsafe { load(self.0.as_ptr(), &SRTT) };
        eighths >> 3
    }

    /// Segments that were sent again.
    #[inline(always)]
    pub(crate) fn retransmits(self) -> u32 {
        // SAFETY: `self.0` is a BTF pointer.
        unsafe { load(self.0.as_ptr(), &TOTAL_RETRANSMITS) }
    }

    /// When the kernel began with the segment or the timer that it is at, nanoseconds of
    /// `CLOCK_MONOTONIC`: `tcp_clock_cache`, which it takes then. `None` where it keeps none.
    #[inline(always)]
    pub(crate) fn clock_ns(self) -> Option<u64> {
        if TCP_CLOCK.load() == MISSING {
            return None;
        }
        // SAFETY: `self.0` is a BTF pointer.
        Some(unsafe { load(self.0.as_ptr(), &TCP_CLOCK) })
    }

    /// Whether the peer has acknowledged all that was to be sent, the FIN with it if there was one.
    #[inline(always)]
    pub(crate) fn is_all_acknowledged(self) -> bool {
        // SAFETY: `self.0` is a BTF pointer.
        let acknowledged: u32 = unsafe { load(self.0.as_ptr(), &SND_UNA) };
        // SAFETY: as above.
        let written: u32 = unsafe { load(self.0.as_ptr(), &WRITE_SEQ) };
        acknowledged == written
    }

    /// Whether its process wants it in no `FIN_WAIT2` (`TCP_LINGER2` below 0).
    #[inline(always)]
    pub(crate) fn wants_no_fin_wait2(self) -> bool {
        if LINGER2.load() == MISSING {
            return false;
        }
        // SAFETY: `self.0` is a BTF pointer.
        let linger2: i32 = unsafe { load(self.0.as_ptr(), &LINGER2) };
        linger2 < 0
    }

    /// Whether a segment with data has come.
    #[inline(always)]
    pub(crate) fn has_data_come(self) -> bool {
        // SAFETY: `self.0` is a BTF pointer.
        let segments: u32 = unsafe { load(self.0.as_ptr(), &DATA_SEGMENTS_IN) };
        segments != 0
    }
}
