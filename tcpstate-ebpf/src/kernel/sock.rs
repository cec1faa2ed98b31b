//! Sockets that the kernel handed to the program, as pointers whose type the verifier knows.

use tcpstate_common::{Family, TcpState};

use super::{
    INET_SPORT, IPPROTO_TCP, NET_INUM, SK_DADDR, SK_DPORT, SK_ERR, SK_FAMILY, SK_FLAGS, SK_NET,
    SK_PROTOCOL, SK_RCV_SADDR, SK_STATE, SK_V6_DADDR, SK_V6_RCV_SADDR, TW_SUBSTATE, as_number,
    copy, load,
};

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

    /// Local and remote port. `inet_sport` and not `skc_num`, which is already 0 when a socket
    /// goes to CLOSE.
    #[inline(always)]
    pub(crate) fn ports(self) -> Option<(u16, u16)> {
        let (mut local, mut remote) = ([0; 2], [0; 2]);
        let complete = copy(self.0, &INET_SPORT, &mut local) & copy(self.0, &SK_DPORT, &mut remote);
        complete.then(|| (u16::from_be_bytes(local), u16::from_be_bytes(remote)))
    }
}

/// A `struct tcp_timewait_sock`: all that is left of a connection in TIME_WAIT or, where the
/// closing process has let go of it, FIN_WAIT2.
#[derive(Clone, Copy)]
pub(crate) struct TimewaitSock(*const u8);

impl TimewaitSock {
    /// # Safety
    ///
    /// `tw` must be a pointer that the verifier knows as a non-null `struct tcp_timewait_sock`.
    #[inline(always)]
    pub(crate) unsafe fn new(tw: *const u8) -> Self {
        Self(tw)
    }

    /// The state that the minisocket stands for, `tw_substate`.
    #[inline(always)]
    pub(crate) fn substate(self) -> Option<TcpState> {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        TcpState::from_kernel(unsafe { load(self.0, &TW_SUBSTATE) })
    }
}
