//! The kernel's own cheap counts of one namespace, `/proc/net/sockstat` and `sockstat6`.

use std::{fs, io};

use super::Tables;

/// TCP sockets of a network namespace by the kernel's own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockStat {
    /// Full sockets in the hash tables, both families: listening up to LAST_ACK.
    pub in_use: u64,
    /// Timewait minisockets, both families, whether they stand for TIME_WAIT or FIN_WAIT2.
    pub minisockets: u64,
    /// Segments received so far (`InSegs`), both families. As long as it stays the same, no
    /// connection can have been half opened.
    pub segments_in: u64,
}

impl SockStat {
    /// Reads the counts of the namespace that the calling thread is in, whose `snmp` this is.
    pub fn read(snmp: &Tables) -> io::Result<Self> {
        let ipv4 = fs::read_to_string("/proc/thread-self/net/sockstat")?;
        // Absent where IPv6 is off.
        let ipv6 = match fs::read_to_string("/proc/thread-self/net/sockstat6") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        Self::parse(&ipv4, &ipv6, snmp).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/net/sockstat or snmp lacks inuse, tw or InSegs of TCP",
            )
        })
    }

    /// Reads only the number of minisockets, which is all a scrape needs.
    pub fn read_minisockets() -> io::Result<u64> {
        let ipv4 = fs::read_to_string("/proc/thread-self/net/sockstat")?;
        value(&ipv4, "TCP:", "tw").ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads how many full sockets no process has any more, on the whole host: the kernel keeps
    /// one count for all namespaces and shows it in each ([`sockstat_seq_show()`][show]).
    ///
    /// [show]: https://github.com/torvalds/linux/blob/v6.12/net/ipv4/proc.c
    pub fn read_orphans() -> io::Result<u64> {
        let ipv4 = fs::read_to_string("/proc/thread-self/net/sockstat")?;
        value(&ipv4, "TCP:", "orphan").ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Parses `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 171` and `TCP6: inuse 0`. The kernel
    /// counts the minisockets of both families in the first.
    fn parse(ipv4: &str, ipv6: &str, snmp: &Tables) -> Option<Self> {
        let in_use6 = value(ipv6, "TCP6:", "inuse").unwrap_or(0);
        Some(Self {
            in_use: value(ipv4, "TCP:", "inuse")? + in_use6,
            minisockets: value(ipv4, "TCP:", "tw")?,
            segments_in: snmp.segments_in()?,
        })
    }

    /// Whether the namespace has no TCP socket of any kind.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.in_use == 0 && self.minisockets == 0
    }
}

fn value(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(protocol))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "sockets: used 10\nTCP: inuse 3 orphan 0 tw 7 alloc 4 mem 171\n\
                        UDP: inuse 0 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\n";
    const IPV6: &str = "TCP6: inuse 2\nUDP6: inuse 9\n";
    const SNMP: &str = "Ip: Forwarding\nIp: 1\nTcp: MaxConn ActiveOpens InSegs OutSegs\n\
                        Tcp: -1 3 1234 5\nUdp: InDatagrams\nUdp: 0\n";

    fn parse(ipv4: &str, ipv6: &str, snmp: &str) -> Option<SockStat> {
        SockStat::parse(ipv4, ipv6, &Tables::from(snmp.to_owned()))
    }

    #[test]
    fn both_families_are_added_up() {
        let expected = SockStat {
            in_use: 5,
            minisockets: 7,
            segments_in: 1234,
        };
        assert_eq!(parse(IPV4, IPV6, SNMP), Some(expected));
    }

    #[test]
    fn a_host_without_ipv6_has_none() {
        let stat = parse(IPV4, "", SNMP).unwrap();
        assert_eq!(stat.in_use, 3);
    }

    #[test]
    fn text_that_is_no_sockstat_is_refused() {
        for text in [
            "",
            "TCP:",
            "TCP: inuse",
            "TCP: inuse x tw 1",
            "TCP: inuse 1 tw -1",
        ] {
            assert_eq!(parse(text, IPV6, SNMP), None, "{text:?}");
        }
        for text in [
            "",
            "Tcp:",
            "Tcp: InSegs\n",
            "Tcp: InSegs\nTcp:\n",
            "Tcp: x\nTcp: 1\n",
        ] {
            assert_eq!(parse(IPV4, IPV6, text), None, "{text:?}");
        }
    }
}
