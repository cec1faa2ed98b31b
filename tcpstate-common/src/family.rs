//! The address families a TCP socket can have.

/// `AF_INET` or `AF_INET6`. A dual-stack socket that speaks IPv4 is [`Family::Ipv6`], as in `ss -6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `AF_INET`.
    Ipv4,
    /// `AF_INET6`.
    Ipv6,
}

impl Family {
    /// Both, in the order of their slots.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family with the kernel's `AF_` number, or `None` for any other family.
    #[inline]
    #[must_use]
    pub const fn from_kernel(raw: u16) -> Option<Self> {
        match raw {
            2 => Some(Self::Ipv4),
            10 => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The kernel's `AF_` number.
    #[inline]
    #[must_use]
    pub const fn to_kernel(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    /// Where this family stands in a table by family.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> usize {
        self as usize
    }
}
