//! What the walk over processes has copied of them, and of their cgroups.

use tcpstate_common::pass::{Cgroup, TaskRecord};

use crate::host::process::{Descriptors, ProcessId, RunState, label_text, until_nul};

/// Which process a record is about.
#[must_use]
pub const fn process_id(record: &TaskRecord) -> ProcessId {
    ProcessId {
        tgid: record.tgid,
        start_boottime_ns: record.start_ns,
    }
}

/// The name of a process.
#[must_use]
pub fn process_name(record: &TaskRecord) -> String {
    label_text(until_nul(&record.comm))
}

/// What keeps a process from going on.
#[must_use]
pub const fn run_state(record: &TaskRecord) -> RunState {
    RunState::of(record.state)
}

/// The descriptors of a process.
#[must_use]
pub fn descriptors(record: &TaskRecord) -> Descriptors {
    Descriptors {
        open: record.open.into(),
        // `RLIM_INFINITY`
        limit: (record.limit != u64::MAX).then_some(record.limit),
    }
}

/// The path of a cgroup; `None` where it could not be read as a whole.
#[must_use]
pub fn cgroup_path(cgroup: &Cgroup) -> Option<String> {
    if cgroup.is_whole == 0 {
        return None;
    }
    let depth = usize::try_from(cgroup.depth).ok()?;
    let names = cgroup.names.get(..depth)?.iter().rev();
    let mut path = String::new();
    for name in names {
        path.push('/');
        path.push_str(&label_text(until_nul(name)));
    }
    if path.is_empty() {
        path.push('/');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes as _;

    use super::*;

    #[test]
    fn a_path_is_read_from_the_root_and_only_where_it_is_whole() {
        let mut cgroup = Cgroup::read_from_bytes(&vec![0; size_of::<Cgroup>()]).unwrap();
        assert_eq!(cgroup_path(&cgroup), None);
        cgroup.is_whole = 1;
        assert_eq!(cgroup_path(&cgroup).as_deref(), Some("/"));
        cgroup.names[0][..13].copy_from_slice(b"nginx.service");
        cgroup.names[1][..13].copy_from_slice(b"system.slice\0");
        cgroup.depth = 2;
        let path = cgroup_path(&cgroup);
        assert_eq!(path.as_deref(), Some("/system.slice/nginx.service"));
        cgroup.depth = 33;
        assert_eq!(cgroup_path(&cgroup), None);
    }

    #[test]
    fn no_limit_is_none() {
        let record = TaskRecord {
            open: 3,
            limit: u64::MAX,
            comm: *b"sh\0garbage\0\0\0\0\0\0",
            ..TaskRecord::default()
        };
        assert_eq!(descriptors(&record).limit, None);
        assert_eq!(process_name(&record), "sh");
    }
}
