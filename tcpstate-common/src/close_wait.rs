//! What there is to say of listeners and of sockets in CLOSE_WAIT, and the kernel's clocks.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One listener, or one socket in CLOSE_WAIT, of a network
/// namespace. Numbers are in host byte order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SocketRecord {
    /// Names the socket among those that live at the same time. It is the kernel's address of the
    /// socket: good for telling sockets apart, never to be shown.
    pub socket: u64,
    /// `CLOCK_MONOTONIC` nanoseconds at which it came into CLOSE_WAIT, 0 where that is not known.
    pub since_ns: u64,
    /// Jiffies since the last acknowledgement was received (`rcv_tstamp`), modulo 2^32.
    pub last_ack_jiffies: u32,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// `rcv_nxt - copied_seq`: received and not read by the process; an unread FIN counts 1.
    pub unread: u32,
    /// `write_seq - snd_una`: written by the process and not acknowledged.
    pub unsent: u32,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// The state, in the kernel's numbers.
    pub state: u8,
    /// A [`SocketFlags`].
    pub flags: u8,
    /// Always 0.
    pub padding: u8,
    /// Remote address as it goes over the wire; IPv4 uses the first four bytes.
    pub remote_address: [u8; 16],
}

/// What else there is to say of a socket: a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFlags;

impl SocketFlags {
    /// It has a `struct socket`: a process has accepted or made it.
    pub const ACCEPTED: u8 = 1;
}

/// The kernel's two clocks at one moment, the beginning of a pass.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct ClockSample {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub monotonic_ns: u64,
    /// `jiffies_64`, which sockets store the lower half of.
    pub jiffies: u64,
}

const _: () = {
    assert!(size_of::<SocketRecord>() == 56);
    assert!(size_of::<ClockSample>() == 16);
};
