//! The kernel's own counters of what becomes of handshakes and connections, in one namespace.
//!
//! What raises each is in Documentation/networking/snmp_counter.rst of the kernel.

/// A counter of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called as the kernel calls them")]
pub enum KernelCounter {
    OutRsts,
    ListenOverflows,
    ListenDrops,
    ReqQFullDrop,
    ReqQFullDoCookies,
    SyncookiesSent,
    SyncookiesReceived,
    SyncookiesFailed,
    TimeWaitOverflow,
    AbortOnData,
    AbortOnClose,
    AbortOnMemory,
    AbortOnTimeout,
    AbortOnLinger,
    AbortFailed,
}

impl KernelCounter {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::OutRsts,
        Self::ListenOverflows,
        Self::ListenDrops,
        Self::ReqQFullDrop,
        Self::ReqQFullDoCookies,
        Self::SyncookiesSent,
        Self::SyncookiesReceived,
        Self::SyncookiesFailed,
        Self::TimeWaitOverflow,
        Self::AbortOnData,
        Self::AbortOnClose,
        Self::AbortOnMemory,
        Self::AbortOnTimeout,
        Self::AbortOnLinger,
        Self::AbortFailed,
    ];

    /// What the kernel calls its place in `struct tcp_mib` or `struct linux_mib`
    /// ([`include/uapi/linux/snmp.h`]).
    ///
    /// [`include/uapi/linux/snmp.h`]: https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/snmp.h
    #[must_use]
    pub const fn kernel_name(self) -> &'static str {
        match self {
            Self::OutRsts => "TCP_MIB_OUTRSTS",
            Self::ListenOverflows => "LINUX_MIB_LISTENOVERFLOWS",
            Self::ListenDrops => "LINUX_MIB_LISTENDROPS",
            Self::ReqQFullDrop => "LINUX_MIB_TCPREQQFULLDROP",
            Self::ReqQFullDoCookies => "LINUX_MIB_TCPREQQFULLDOCOOKIES",
            Self::SyncookiesSent => "LINUX_MIB_SYNCOOKIESSENT",
            Self::SyncookiesReceived => "LINUX_MIB_SYNCOOKIESRECV",
            Self::SyncookiesFailed => "LINUX_MIB_SYNCOOKIESFAILED",
            Self::TimeWaitOverflow => "LINUX_MIB_TCPTIMEWAITOVERFLOW",
            Self::AbortOnData => "LINUX_MIB_TCPABORTONDATA",
            Self::AbortOnClose => "LINUX_MIB_TCPABORTONCLOSE",
            Self::AbortOnMemory => "LINUX_MIB_TCPABORTONMEMORY",
            Self::AbortOnTimeout => "LINUX_MIB_TCPABORTONTIMEOUT",
            Self::AbortOnLinger => "LINUX_MIB_TCPABORTONLINGER",
            Self::AbortFailed => "LINUX_MIB_TCPABORTFAILED",
        }
    }
}

/// A value for each counter. `None` where it is not known: the kernel does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters([Option<u64>; KernelCounter::ALL.len()]);

impl KernelCounters {
    /// One value.
    #[must_use]
    pub const fn get(&self, counter: KernelCounter) -> Option<u64> {
        self.0[counter as usize]
    }

    /// Sets one value.
    pub const fn set(&mut self, counter: KernelCounter, value: Option<u64>) {
        self.0[counter as usize] = value;
    }
}
