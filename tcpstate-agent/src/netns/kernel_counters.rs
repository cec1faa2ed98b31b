//! The kernel's own counters of what becomes of handshakes and connections, in one namespace.
//!
//! What raises each is in Documentation/networking/snmp_counter.rst of the kernel.

use super::Tables;

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

    /// The one that has this name among the counters `TcpExt:` of netstat.
    fn of_netstat(name: &str) -> Option<Self> {
        Some(match name {
            "ListenOverflows" => Self::ListenOverflows,
            "ListenDrops" => Self::ListenDrops,
            "TCPReqQFullDrop" => Self::ReqQFullDrop,
            "TCPReqQFullDoCookies" => Self::ReqQFullDoCookies,
            "SyncookiesSent" => Self::SyncookiesSent,
            "SyncookiesRecv" => Self::SyncookiesReceived,
            "SyncookiesFailed" => Self::SyncookiesFailed,
            "TCPTimeWaitOverflow" => Self::TimeWaitOverflow,
            "TCPAbortOnData" => Self::AbortOnData,
            "TCPAbortOnClose" => Self::AbortOnClose,
            "TCPAbortOnMemory" => Self::AbortOnMemory,
            "TCPAbortOnTimeout" => Self::AbortOnTimeout,
            "TCPAbortOnLinger" => Self::AbortOnLinger,
            "TCPAbortFailed" => Self::AbortFailed,
            _ => return None,
        })
    }
}

/// A value for each counter. `None` where it is not known: the kernel does not have it, or it was
/// not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters([Option<u64>; KernelCounter::ALL.len()]);

impl KernelCounters {
    /// Takes the counters from the kernel's tables; from `snmp` alone where that is all there is.
    #[must_use]
    pub fn parse(snmp: &Tables, netstat: Option<&Tables>) -> Self {
        let mut counters = Self::default();
        counters.set(KernelCounter::OutRsts, snmp.value("Tcp:", "OutRsts"));
        for (name, value) in netstat.into_iter().flat_map(|table| table.of("TcpExt:")) {
            if let Some(counter) = KernelCounter::of_netstat(name) {
                counters.set(counter, value.parse().ok());
            }
        }
        counters
    }

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tables(text: &str) -> Tables {
        Tables::from(text.to_owned())
    }

    fn of_netstat(text: &str) -> KernelCounters {
        KernelCounters::parse(&tables(""), Some(&tables(text)))
    }

    #[test]
    fn each_counter_is_found_by_its_name_wherever_its_column_is() {
        let snmp = tables(
            "Ip: Forwarding\nIp: 1\nTcp: MaxConn OutRsts InSegs\nTcp: -1 7 1234\n\
             Udp: InDatagrams\nUdp: 0\n",
        );
        let netstat = tables(
            "TcpExt: SyncookiesSent New SyncookiesRecv SyncookiesFailed ListenDrops \
             ListenOverflows TCPAbortFailed TCPAbortOnLinger TCPAbortOnTimeout TCPAbortOnMemory \
             TCPAbortOnClose TCPAbortOnData TCPTimeWaitOverflow TCPReqQFullDoCookies \
             TCPReqQFullDrop\nTcpExt: 5 99 6 101 2 1 14 13 12 11 10 9 8 4 3\n\
             IpExt: ListenDrops\nIpExt: 55\n",
        );
        let found = KernelCounters::parse(&snmp, Some(&netstat));
        let values = KernelCounter::ALL.map(|counter| found.get(counter));
        let expected = [7, 1, 2, 3, 4, 5, 6, 101, 8, 9, 10, 11, 12, 13, 14].map(Some);
        assert_eq!(values, expected);
    }

    #[test]
    fn a_column_that_is_not_there_or_makes_no_sense_has_no_value() {
        use KernelCounter::{ListenDrops, ListenOverflows};

        for (text, drops, overflows) in [
            ("", None, None),
            ("TcpExt:", None, None),
            ("TcpExt: ListenDrops\n", None, None),
            (
                "TcpExt: ListenDrops ListenOverflows\nTcpExt: 1\n",
                Some(1),
                None,
            ),
            ("TcpExt: ListenDrops\nTcpExt: 1 2 3\n", Some(1), None),
            ("TcpExt: x ListenOverflows\nTcpExt: x 2\n", None, Some(2)),
            (
                "TcpExt: ListenDrops ListenOverflows\nTcpExt: -1 3\n",
                None,
                Some(3),
            ),
            (
                "TcpExt: ListenDrops ListenOverflows\n\
                 TcpExt: 18446744073709551616 18446744073709551615\n",
                None,
                Some(u64::MAX),
            ),
        ] {
            let found = of_netstat(text);
            let found = (found.get(ListenDrops), found.get(ListenOverflows));
            assert_eq!(found, (drops, overflows), "{text:?}");
        }
    }

    #[test]
    fn what_was_not_looked_at_has_no_value() {
        let snmp = tables("Tcp: OutRsts\nTcp: 7\n");
        let found = KernelCounters::parse(&snmp, None);
        assert_eq!(found.get(KernelCounter::OutRsts), Some(7));
        assert_eq!(found.get(KernelCounter::ListenDrops), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(
            snmp in "(Tcp: [a-zA-Z0-9 \n-]{0,60}){0,3}",
            netstat in "(TcpExt:|ListenDrops|[ \n]|\\PC|[0-9]{0,22}){0,40}",
        ) {
            let _ = KernelCounters::parse(&tables(&snmp), Some(&tables(&netstat)));
        }
    }

    #[test]
    fn this_kernel_has_them_all() {
        let found =
            KernelCounters::parse(&Tables::snmp().unwrap(), Some(&Tables::netstat().unwrap()));
        for counter in KernelCounter::ALL {
            assert!(found.get(counter).is_some(), "{counter:?}");
        }
    }
}
