//! What decides which local ports outgoing connections get, and how long they keep them.

use std::{fs::File, io::Read as _, num::ParseIntError};

use tcpstate_common::{PORT_WORDS, PortSet};

/// The settings of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// The ports that `connect()` may choose: `ip_local_port_range` without
    /// `ip_local_reserved_ports`. `None` where one of them cannot be read.
    pub choosable: Option<Box<PortSet>>,
    /// `tcp_tw_reuse`: whether `connect()` takes over ports in TIME_WAIT. 0 never, 1 those with
    /// timestamps after a second, 2 the same on loopback only.
    pub tw_reuse: Option<u64>,
    /// `tcp_max_tw_buckets`: how many minisockets there may be.
    pub max_tw_buckets: Option<u64>,
}

impl PortRules {
    /// Reads the settings of the namespace that the calling thread is in.
    #[must_use]
    pub fn read() -> Self {
        let choosable = || {
            let range = text("ip_local_port_range")?;
            // Older than any kernel that this runs on, so there it is.
            let reserved = text("ip_local_reserved_ports")?;
            choosable(&range, &reserved)
        };
        let number = |name| text(name)?.trim_ascii().parse().ok();
        Self {
            choosable: choosable(),
            tw_reuse: number("tcp_tw_reuse"),
            max_tw_buckets: number("tcp_max_tw_buckets"),
        }
    }
}

/// More than any of them can be: 65,536 ports with their commas.
const LONGEST: usize = 2 * 1024 * 1024;

/// With a single read: of a list of ports the kernel gives a second one nothing
/// (`proc_do_large_bitmap()`), whatever did not fit into the first.
fn text(name: &str) -> Option<String> {
    let mut room = 4096;
    while room <= LONGEST {
        let mut text = vec![0; room];
        let mut file = File::open(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        let length = file.read(&mut text).ok()?;
        if length < room {
            text.truncate(length);
            return String::from_utf8(text).ok();
        }
        room *= 8;
    }
    None
}

/// Parses `32768\t60999` and `8080,9000-9099`, or an empty line.
fn choosable(range: &str, reserved: &str) -> Option<Box<PortSet>> {
    let mut words = range.split_ascii_whitespace().map(str::parse::<u16>);
    let (low, high) = (words.next()?.ok()?, words.next()?.ok()?);
    let mut ports = Box::new([0; PORT_WORDS]);
    for port in low..=high {
        ports[usize::from(port >> 6)] |= 1 << (port & 63);
    }
    let reserved = reserved.trim_ascii().split(',');
    for part in reserved.filter(|part| !part.is_empty()) {
        let (first, last) = ends(part).ok()?;
        for port in first..=last {
            ports[usize::from(port >> 6)] &= !(1 << (port & 63));
        }
    }
    Some(ports)
}

fn ends(part: &str) -> Result<(u16, u16), ParseIntError> {
    match part.split_once('-') {
        Some((first, last)) => Ok((first.parse()?, last.parse()?)),
        None => part.parse().map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_with_one_read_however_long_it_is() {
        assert_eq!(
            text("ip_local_port_range")
                .unwrap()
                .split_whitespace()
                .count(),
            2
        );
        assert_eq!(text("there_is_no_such_setting"), None);
    }

    fn ports(range: &str, reserved: &str) -> Option<Vec<u16>> {
        let set = choosable(range, reserved)?;
        let has = |port: &u16| set[usize::from(port >> 6)] >> (port & 63) & 1 != 0;
        Some((0..=u16::MAX).filter(has).collect())
    }

    #[test]
    fn the_ports_are_the_range_without_those_that_are_reserved() {
        assert_eq!(
            ports("63\t65\n", "\n").unwrap(),
            [63, 64, 65],
            "both ends are part of it"
        );
        assert_eq!(
            ports("1000\t1009\n", "900-1001,1005,1008-2000\n").unwrap(),
            [1002, 1003, 1004, 1006, 1007]
        );
        assert_eq!(ports("1\t65535\n", "1-65535\n").unwrap().len(), 0);
        assert_eq!(ports("32768\t60999\n", "\n").unwrap().len(), 28_232);
        assert_eq!(ports("1\t65535", "").unwrap().len(), 65_535);
    }

    #[test]
    fn text_that_is_no_range_is_refused() {
        for (range, reserved) in [
            ("", ""),
            ("1", ""),
            ("1 x", ""),
            ("1 65536", ""),
            ("-1 5", ""),
            ("1 5", "x"),
            ("1 5", "1-"),
            ("1 5", "1,-2"),
        ] {
            assert_eq!(ports(range, reserved), None, "{range:?} {reserved:?}");
        }
    }

    #[test]
    fn a_range_that_is_empty_has_no_ports() {
        assert_eq!(ports("5 4", "").unwrap().len(), 0);
    }
}
