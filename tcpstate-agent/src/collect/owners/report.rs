//! Owners of sockets, as reports describe them.

use std::{collections::HashMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    diagnosis::words::terminal,
    host::process::{Process, ProcessId, executable},
};

/// A process that holds sockets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportProcess {
    /// Its number.
    pub pid: u32,
    /// When it started, `CLOCK_BOOTTIME` nanoseconds: with the number it names the process for
    /// good.
    pub start_boottime_ns: u64,
    /// comm of its first thread.
    pub name: String,
    /// What it runs.
    pub executable: Option<PathBuf>,
    /// systemd unit, or empty.
    pub unit: String,
    /// Container, or empty.
    pub container_id: String,
    /// Kubernetes pod, or empty.
    pub pod_uid: String,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// How many it may have open; `None` where that is not limited or not known.
    pub max_fds: Option<u64>,
}

impl ReportProcess {
    /// Which process it is.
    #[must_use]
    pub const fn id(&self) -> ProcessId {
        ProcessId {
            tgid: self.pid,
            start_boottime_ns: self.start_boottime_ns,
        }
    }

    /// How many more descriptors it may have; `None` where that is not limited or not known.
    pub(crate) fn fds_left(&self) -> Option<u64> {
        Some(self.max_fds?.saturating_sub(self.open_fds?))
    }

    /// Where it runs, for a person; empty where that is not known.
    pub(crate) fn place(&self) -> String {
        [
            ("unit", &self.unit),
            ("container", &self.container_id),
            ("pod", &self.pod_uid),
        ]
        .into_iter()
        .filter(|(_, name)| !name.is_empty())
        .map(|(kind, name)| format!("{kind} {}", terminal(name)))
        .collect::<Vec<_>>()
        .join(", ")
    }
}

/// What a cgroup is the cgroup of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportCgroup {
    /// systemd unit, or empty.
    pub unit: String,
    /// Container, or empty.
    pub container_id: String,
    /// Kubernetes pod, or empty.
    pub pod_uid: String,
}

impl ReportCgroup {
    /// The narrowest of its names.
    pub(crate) fn innermost(&self) -> Option<String> {
        let names = [
            ("container ", &self.container_id),
            ("pod ", &self.pod_uid),
            ("", &self.unit),
        ];
        let known = names.into_iter().find(|(_, name)| !name.is_empty());
        known.map(|(kind, name)| format!("{kind}{name}"))
    }
}

/// Describes processes, each once.
#[derive(Debug, Default)]
pub(crate) struct Reporter(HashMap<ProcessId, ReportProcess>);

impl Reporter {
    pub(crate) fn describe(&mut self, process: &Process) -> ReportProcess {
        let known = self.0.entry(process.id);
        known.or_insert_with(|| describe(process)).clone()
    }
}

fn describe(process: &Process) -> ReportProcess {
    let Process {
        id,
        name,
        cgroup,
        descriptors,
        // Two looks tell more of it: see the facts.
        run_state: _,
    } = process;
    ReportProcess {
        pid: id.tgid,
        start_boottime_ns: id.start_boottime_ns,
        name: name.clone(),
        executable: executable(*id),
        unit: cgroup.unit.clone(),
        container_id: cgroup.container_id.clone(),
        pod_uid: cgroup.pod_uid.clone(),
        open_fds: Some(descriptors.open),
        max_fds: descriptors.limit,
    }
}
