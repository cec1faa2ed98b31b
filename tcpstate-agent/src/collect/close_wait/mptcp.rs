//! MPTCP connections that their peers have closed. To TCP their subflows are established, and no table
//! has the connections themselves: only the descriptors of processes lead to them.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Role, Service};
use crate::{
    collect::owners::ReportProcess,
    diagnosis::{
        Filter, NamespacePaths,
        words::{counted, duration, terminal},
    },
};

/// Those of one process and service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MptcpTally {
    /// How many.
    pub connections: u64,
    /// The longest time since the first subflow has received anything: so long ago, at least, has its
    /// peer closed.
    pub oldest: Duration,
}

impl MptcpTally {
    pub(super) fn add(&mut self, age: Duration) {
        self.connections += 1;
        self.oldest = self.oldest.max(age);
    }
}

/// MPTCP connections that one process has and that their peers have closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportMptcp {
    /// The process.
    pub process: ReportProcess,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// Which side of the connections.
    pub role: Role,
    /// The service's port.
    pub port: u16,
    /// How many there are.
    pub connections: u64,
    /// At least so old is the oldest.
    pub oldest_age_seconds: f64,
}

/// They, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedMptcp {
    /// The group, at the second look.
    #[serde(flatten)]
    pub group: ReportMptcp,
    /// What is wrong in the program, most likely.
    pub fault: &'static str,
    /// What to check in it.
    pub check: &'static str,
    /// A command that shows the connections.
    pub command: String,
}

impl ReportMptcp {
    pub(super) const fn new(process: ReportProcess, service: Service, tally: MptcpTally) -> Self {
        Self {
            process,
            namespace: service.namespace,
            role: service.role,
            port: service.port,
            connections: tally.connections,
            oldest_age_seconds: tally.oldest.as_secs_f64(),
        }
    }
}

impl Filter {
    pub(crate) fn passes_mptcp(&self, group: &ReportMptcp) -> bool {
        self.is_held(Some(&group.process), &[]) && self.port.is_none_or(|port| group.port == port)
    }
}

/// Writes who has such connections.
pub(crate) fn write_mptcp(out: &mut dyn Write, groups: &[DiagnosedMptcp]) -> io::Result<()> {
    let connections = groups.iter().map(|group| group.group.connections).sum();
    writeln!(
        out,
        "MPTCP: {} in CLOSE_WAIT.",
        counted(connections, "connection")
    )?;
    for diagnosed in groups {
        let group = &diagnosed.group;
        let process = &group.process;
        let side = match group.role {
            Role::Server => "server on",
            Role::Client => "client of",
        };
        writeln!(
            out,
            "\n! {} (pid {}), {side} port {}: {}",
            terminal(&process.name),
            process.pid,
            group.port,
            counted(group.connections, "connection")
        )?;
        writeln!(out, "   It {}.", diagnosed.fault)?;
        let mut line = |name: &str, text: &str| writeln!(out, "   {name:<10}{text}");
        let place = process.place();
        if !place.is_empty() {
            line("in", &place)?;
        }
        let age = duration(group.oldest_age_seconds);
        line("age", &format!("at least {age}"))?;
        line("check", diagnosed.check)?;
        line("look", &diagnosed.command)?;
    }
    Ok(())
}

/// Connections this young are on their way: closing takes a moment.
const PASSING: f64 = 1.0;

impl DiagnosedMptcp {
    /// `None` for those that are just being closed.
    pub(crate) fn new(group: ReportMptcp, namespaces: &NamespacePaths) -> Option<Self> {
        let end = match group.role {
            Role::Server => "sport",
            Role::Client => "dport",
        };
        let command = format!("ss -Mna state close-wait '( {end} = :{} )'", group.port);
        (group.oldest_age_seconds >= PASSING).then(|| Self {
            fault: "keeps MPTCP connections that their peers have closed, and has not closed its side",
            check: "what is checked of sockets in CLOSE_WAIT: leaks, pools without health checks, and \
                    whoever should read them; to TCP they are established, and no count of CLOSE_WAIT \
                    has them",
            command: namespaces.command(group.namespace, &command),
            group,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::diagnosis::{
        compare::tests::{HERE, process},
        namespace_paths::tests::paths,
    };

    pub(crate) fn mptcp(pid: u32, port: u16, oldest_age_seconds: f64) -> ReportMptcp {
        ReportMptcp {
            process: process(pid, 30),
            namespace: HERE,
            role: Role::Server,
            port,
            connections: 5,
            oldest_age_seconds,
        }
    }

    #[test]
    fn who_has_mptcp_connections_whose_peers_have_closed_is_named() {
        assert_eq!(DiagnosedMptcp::new(mptcp(1, 80, 0.5), &paths()), None);
        let found = DiagnosedMptcp::new(mptcp(4711, 8080, 61.0), &paths()).unwrap();
        let mut text = Vec::new();
        write_mptcp(&mut text, &[found]).unwrap();
        let expected = "\
MPTCP: 5 connections in CLOSE_WAIT.

! python3 (pid 4711), server on port 8080: 5 connections
   It keeps MPTCP connections that their peers have closed, and has not closed its side.
   in        unit shop.service
   age       at least 1 min 1 s
   check     what is checked of sockets in CLOSE_WAIT: leaks, pools without health checks, and whoever should read them; to TCP they are established, and no count of CLOSE_WAIT has them
   look      sudo ss -Mna state close-wait '( sport = :8080 )'
";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
