//! The labels of processes: they stick, and some may be hidden.

use std::{sync::Arc, time::Duration};

use rustc_hash::FxHashMap;

use super::{CgroupIdentity, OwnerLabels};
use crate::host::process::{Process, ProcessId};

/// A process that is older is what it is going to be: until then it may run another program, and be
/// moved to where it belongs.
const SETTLED: Duration = Duration::from_secs(10);

/// Labels of owners that are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each label is hidden or not, whatever the others are"
)]
pub struct Hidden {
    /// `process`.
    pub process: bool,
    /// `unit`.
    pub unit: bool,
    /// `container_id`.
    pub container_id: bool,
    /// `pod_uid`.
    pub pod_uid: bool,
}

impl Hidden {
    /// None.
    pub const NONE: Self = Self {
        process: false,
        unit: false,
        container_id: false,
        pod_uid: false,
    };
}

/// Names processes.
///
/// A process may call itself otherwise at any time, and be moved to another cgroup as often. Each
/// time would be another set of series; so what one was called when it had settled stays for as long
/// as it lives.
#[derive(Debug, Default)]
pub struct Naming {
    hidden: Hidden,
    settled: FxHashMap<ProcessId, Arc<OwnerLabels>>,
}

impl Naming {
    /// With these left out.
    #[must_use]
    pub fn new(hidden: Hidden) -> Self {
        Self {
            hidden,
            settled: FxHashMap::default(),
        }
    }

    /// The labels of a process, when `CLOCK_BOOTTIME` says `now`.
    pub fn of(&mut self, process: &Process, now: Duration) -> Arc<OwnerLabels> {
        if let Some(labels) = self.settled.get(&process.id) {
            return Arc::clone(labels);
        }
        let labels = Arc::new(self.shown(OwnerLabels::of(process)));
        let started = Duration::from_nanos(process.id.start_boottime_ns);
        if now.saturating_sub(started) >= SETTLED {
            self.settled.insert(process.id, Arc::clone(&labels));
        }
        labels
    }

    /// Those of what no process is known to hold.
    #[must_use]
    pub fn of_cgroup(&self, cgroup: CgroupIdentity) -> OwnerLabels {
        self.shown(OwnerLabels::of_cgroup(cgroup))
    }

    /// Forgets the processes that hold no sockets any more.
    pub fn keep_only(&mut self, is_there: impl Fn(&ProcessId) -> bool) {
        self.settled.retain(|id, _| is_there(id));
    }

    fn shown(&self, labels: OwnerLabels) -> OwnerLabels {
        let Hidden {
            process,
            unit,
            container_id,
            pod_uid,
        } = self.hidden;
        // To Prometheus, an empty label is none.
        let shown = |is_hidden, text| if is_hidden { String::new() } else { text };
        OwnerLabels {
            process: shown(process, labels.process),
            unit: shown(unit, labels.unit),
            container_id: shown(container_id, labels.container_id),
            pod_uid: shown(pod_uid, labels.pod_uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::Descriptors;

    fn process(name: &str) -> Process {
        Process {
            id: ProcessId {
                tgid: 7,
                start_boottime_ns: 5_000_000_000,
            },
            name: name.to_owned(),
            cgroup: CgroupIdentity {
                unit: format!("{name}.service"),
                ..CgroupIdentity::default()
            },
            descriptors: Descriptors {
                open: 1,
                limit: None,
            },
        }
    }

    #[test]
    fn a_process_that_has_settled_keeps_its_labels_whatever_it_calls_itself() {
        let mut naming = Naming::default();
        let at = Duration::from_secs;
        // systemd, on its way to become a server.
        assert_eq!(naming.of(&process("(server)"), at(6)).process, "(server)");
        assert_eq!(naming.of(&process("server"), at(20)).process, "server");
        let renamed = naming.of(&process("other"), at(21));
        assert_eq!(
            (&*renamed.process, &*renamed.unit),
            ("server", "server.service")
        );
        naming.keep_only(|_| false);
        assert_eq!(naming.of(&process("other"), at(22)).process, "other");
    }

    #[test]
    fn what_is_hidden_is_in_no_label() {
        let mut naming = Naming::new(Hidden {
            process: true,
            ..Hidden::default()
        });
        let labels = naming.of(&process("server"), Duration::ZERO);
        assert_eq!((&*labels.process, &*labels.unit), ("", "server.service"));
        let cgroup = process("server").cgroup;
        assert_eq!(naming.of_cgroup(cgroup).unit, "server.service");
    }
}
