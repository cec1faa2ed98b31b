//! Connections whose peers acknowledge nothing, as the iterator hands them out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One socket that has sent something again, or asked its peer whether it is there, and has no
/// answer yet. Numbers are in host byte order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct UnansweredRecord {
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// Jiffies since the last acknowledgement was received (`rcv_tstamp`), modulo 2^32.
    pub last_ack_jiffies: u32,
    /// `write_seq - snd_una`: sent or to be sent, and not acknowledged; a FIN counts 1.
    pub unacknowledged: u32,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// The state, in the kernel's numbers.
    pub state: u8,
    /// How often the segment that is due was sent again (`icsk_retransmits`).
    pub retransmits: u8,
    /// Probes without an answer: of keepalive, or for a window that is shut (`icsk_probes_out`).
    pub probes: u8,
    /// Remote address as it goes over the wire; IPv4 uses the first four bytes.
    pub remote_address: [u8; 16],
}

const _: () = assert!(size_of::<UnansweredRecord>() == 36);
