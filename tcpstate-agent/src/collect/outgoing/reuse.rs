//! Which ports in TIME_WAIT `connect()` may take over.

use std::net::IpAddr;

/// The setting `net.ipv4.tcp_tw_reuse` of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// 0: none.
    Never,
    /// 1: those of connections with timestamps, after a second.
    Always,
    /// 2: the same, on loopback only. It is what kernels do by default since 4.19.
    Loopback,
}

impl Reuse {
    /// The setting as the kernel writes it.
    #[must_use]
    pub const fn from_kernel(value: u64) -> Option<Self> {
        match value {
            0 => Some(Self::Never),
            1 => Some(Self::Always),
            2 => Some(Self::Loopback),
            _ => None,
        }
    }

    /// Whether it lets ports be taken over that go from `local` to `remote`. The kernel also asks
    /// whether the socket is bound to the loopback device, which is hardly ever so
    /// ([`tcp_twsk_unique()`][unique]).
    ///
    /// [unique]: https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_ipv4.c
    #[must_use]
    pub const fn applies(self, local: IpAddr, remote: IpAddr) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Loopback => local.is_loopback() || remote.is_loopback(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_only_ports_on_loopback_are_taken_over() {
        let [near, far, near6, far6] =
            ["127.0.0.9", "10.0.0.1", "::1", "fd00::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let by = |setting| Reuse::from_kernel(setting).unwrap();
        for (setting, local, remote, expected) in [
            (0, near, near, false),
            (0, far, far, false),
            (1, near, near, true),
            (1, far, far, true),
            (2, near, far, true),
            (2, far, near, true),
            (2, near6, near6, true),
            (2, far, far, false),
            (2, far6, far6, false),
        ] {
            assert_eq!(by(setting).applies(local, remote), expected, "{setting}");
        }
        assert_eq!(Reuse::from_kernel(3), None);
    }
}
