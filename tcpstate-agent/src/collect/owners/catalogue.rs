//! Labels that say who runs a process.

use crate::exposition::catalogue::Label;

pub(crate) const UNIT: Label = Label {
    name: "unit",
    values: "systemd unit that the process is in, or empty",
};
pub(crate) const CONTAINER_ID: Label = Label {
    name: "container_id",
    values: "container that the process is in, the bare id, or empty",
};
pub(crate) const POD_UID: Label = Label {
    name: "pod_uid",
    values: "Kubernetes pod that the process is in, or empty",
};
