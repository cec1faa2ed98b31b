//! The files that are read beside the kernel's tables, and may be hidden: by `ProcSubset=pid`, a mount
//! over them, or an LSM.

use std::{fs, io};

/// Such a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel's own count of sockets without a process.
    Sockstat,
    /// How many of those there may be.
    Sysctl,
    /// What the kernel tells of the agent's own programs.
    Fdinfo,
}

impl Source {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Sockstat, Self::Sysctl, Self::Fdinfo];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sockstat => "sockstat",
            Self::Sysctl => "sysctl",
            Self::Fdinfo => "fdinfo",
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Sockstat => "/proc/thread-self/net/sockstat",
            Self::Sysctl => "/proc/sys/net/ipv4/tcp_max_orphans",
            Self::Fdinfo => "/proc/self/fdinfo",
        }
    }

    /// What is not known without it.
    #[must_use]
    pub const fn metric(self) -> &'static str {
        match self {
            Self::Sockstat => "tcpstate_orphaned_sockets",
            Self::Sysctl => "tcpstate_tcp_max_orphans",
            Self::Fdinfo => "tcpstate_missed_transitions_total",
        }
    }

    /// Whether it can be read.
    pub fn ask(self) -> io::Result<()> {
        match self {
            Self::Sockstat | Self::Sysctl => fs::read(self.path()).map(drop),
            Self::Fdinfo => fs::read_dir(self.path()).map(drop),
        }
    }
}
