//! Full sockets that no process has any more.

use std::{fs, io};

use super::Source;

/// How many there are, and may be, on the whole host.
pub struct Orphans;

impl Orphans {
    /// How many there are. The kernel keeps one count for all namespaces and shows it in each
    /// ([`sockstat_seq_show()`][show]).
    ///
    /// [show]: https://github.com/torvalds/linux/blob/v6.12/net/ipv4/proc.c
    pub fn read() -> io::Result<u64> {
        let text = fs::read_to_string(Source::Sockstat.path())?;
        orphans(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// How many there may be, `tcp_max_orphans`. Only the first network namespace shows it.
    #[must_use]
    pub fn limit() -> Option<u64> {
        let text = fs::read_to_string(Source::Sysctl.path()).ok()?;
        text.trim_ascii().parse().ok()
    }
}

/// Finds `orphan 0` in `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 171`.
fn orphans(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "orphan")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_are_those_of_tcp() {
        let text = "sockets: used 3\nTCP: inuse 1 orphan 7 tw 0 alloc 1 mem 171\nUDP: inuse 2\n";
        assert_eq!(orphans(text), Some(7));
        for text in [
            "",
            "TCP: inuse 1",
            "TCP: orphan",
            "TCP: orphan x",
            "UDP: orphan 1",
        ] {
            assert_eq!(orphans(text), None, "{text}");
        }
    }
}
