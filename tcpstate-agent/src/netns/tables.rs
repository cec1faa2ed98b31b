//! The kernel's tables of counters, `/proc/net/snmp` and `/proc/net/netstat`.

use std::{fs, io};

/// The text of such a file: for each protocol a line of names, and one of values below it.
#[derive(Clone, Debug)]
pub struct Tables(String);

impl Tables {
    /// The counters of the standards, `/proc/net/snmp`, in the namespace that the calling thread
    /// is in.
    pub fn snmp() -> io::Result<Self> {
        fs::read_to_string("/proc/thread-self/net/snmp").map(Self)
    }

    /// Linux' own counters, `/proc/net/netstat`, in the same namespace.
    pub fn netstat() -> io::Result<Self> {
        fs::read_to_string("/proc/thread-self/net/netstat").map(Self)
    }

    /// The names and values of a protocol such as `Tcp:`. Nothing where it is not there; what has
    /// only a name or only a value is left out.
    pub(super) fn of(&self, protocol: &str) -> impl Iterator<Item = (&str, &str)> {
        let mut lines = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix(protocol));
        let mut words = || lines.next().unwrap_or_default().split_ascii_whitespace();
        let names = words();
        names.zip(words())
    }

    /// TCP segments received, in both families: `InSegs` of snmp.
    #[must_use]
    pub fn segments_in(&self) -> Option<u64> {
        self.value("Tcp:", "InSegs")
    }

    /// One value. `None` where it is not there, or is no number.
    pub(super) fn value(&self, protocol: &str, name: &str) -> Option<u64> {
        let (_, value) = self.of(protocol).find(|(found, _)| *found == name)?;
        value.parse().ok()
    }
}

impl From<String> for Tables {
    fn from(text: String) -> Self {
        Self(text)
    }
}
