//! The ring-buffer record of one state transition, and which transitions deserve one.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::CloseReason;

/// One call of `inet_sock_set_state` for a TCP socket, as it lies in the ring buffer.
///
/// Numbers are in host byte order. The agent checks every field before it believes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TransitionRecord {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Names the socket among those that live at the same time. It is the kernel's address of the
    /// socket: good for telling sockets apart, never to be shown.
    pub socket: u64,
    /// Inode number of the network namespace, as in `/proc/PID/ns/net`.
    pub namespace: u32,
    /// `sk_err`, a positive errno, 0 for none.
    pub error: i32,
    /// Local port, 0 where none is bound yet.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// The state before, in the kernel's numbers.
    pub old_state: u8,
    /// The state after.
    pub new_state: u8,
    /// How the connection ended: the number of a [`CloseReason`], where
    /// `new_state` is CLOSE. From CLOSE to CLOSE: what the end is corrected to, see
    /// [`Ending::corrected`](crate::Ending::corrected).
    pub reason: u8,
    /// Local address; IPv4 uses the first four bytes, the others are 0.
    pub local_address: [u8; 16],
    /// Remote address, likewise.
    pub remote_address: [u8; 16],
    /// comm of the first thread of `process`; what follows its first NUL means nothing.
    pub process_name: [u8; 16],
    /// The process that called connect() or listen(), 0 for every other transition: those come
    /// with whatever segment or timer, and whoever is on the CPU has nothing to do with them.
    pub process: u32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<TransitionRecord>() == 88);

/// Why a transition may be worth a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TransitionKind {
    /// A step of opening, or of closing in good order.
    Step = 1,
    /// The end that a connection closed in good order has, or a listener's.
    NormalEnd = 2,
    /// An end by reset, time-out, refusal, want of a port, or by dropping a connection that
    /// was still open.
    AbnormalEnd = 4,
}

impl TransitionKind {
    /// The kind of a transition to CLOSE, by the reason for which the connection ended; `None` for
    /// a listener, which was none.
    #[inline(always)]
    #[must_use]
    pub const fn of_end(reason: Option<CloseReason>) -> Self {
        match reason {
            Some(reason) if !reason.is_normal() => Self::AbnormalEnd,
            _ => Self::NormalEnd,
        }
    }
}

/// Which kinds of transition go to the ring buffer: a set of [`TransitionKind`], fixed when the
/// programs are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMask(u8);

impl RecordMask {
    /// Only abnormal ends: what a running agent streams.
    pub const ABNORMAL_ENDS: Self = Self(TransitionKind::AbnormalEnd as u8);
    /// Every transition: what `trace` wants.
    pub const EVERY_TRANSITION: Self = Self(
        TransitionKind::Step as u8
            | TransitionKind::NormalEnd as u8
            | TransitionKind::AbnormalEnd as u8,
    );

    /// The mask as the program's global holds it.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The mask that a program's global holds.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether records of `kind` are wanted.
    #[inline]
    #[must_use]
    pub const fn wants(self, kind: TransitionKind) -> bool {
        self.0 & kind as u8 != 0
    }
}
