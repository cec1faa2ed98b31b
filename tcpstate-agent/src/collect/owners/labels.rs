//! The labels of owners.

use super::CgroupIdentity;
use crate::host::process::Process;

/// Whose sockets, as labels say it; empty where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerLabels {
    /// Name of the process.
    pub process: String,
    /// systemd unit.
    pub unit: String,
    /// Container, its bare id.
    pub container_id: String,
    /// Kubernetes pod.
    pub pod_uid: String,
}

impl OwnerLabels {
    /// Those of a process.
    #[must_use]
    pub fn of(process: &Process) -> Self {
        Self {
            process: process.name.clone(),
            ..Self::of_cgroup(process.cgroup.clone())
        }
    }

    /// Those of what no process is known to hold.
    #[must_use]
    pub fn of_cgroup(cgroup: CgroupIdentity) -> Self {
        Self {
            process: String::new(),
            unit: cgroup.unit,
            container_id: cgroup.container_id,
            pod_uid: cgroup.pod_uid,
        }
    }
}
