//! The labels of owners.

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
        let cgroup = process.cgroup.clone();
        Self {
            process: process.name.clone(),
            unit: cgroup.unit,
            container_id: cgroup.container_id,
            pod_uid: cgroup.pod_uid,
        }
    }
}
