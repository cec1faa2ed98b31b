//! The processes that were read, between one pass over the sockets and the next.
//!
//! A process may own a hundred thousand sockets, and most own the same ones for hours.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::identity::{Process, ProcessId, ReadError};

/// exec(2) changes name and executable, prctl(2) the name, and systemd may move a process to
/// another cgroup, none of which changes its id. This is for how long the old ones may be shown.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// Some MB at the most. A host with more processes that own sockets reads the rest each time.
const MAX_ENTRIES: usize = 8192;

/// Remembers processes. Call [`Self::keep_only`] after each pass: nothing else forgets those
/// that ended, and once it is full, new ones find no place.
#[derive(Debug, Default)]
pub struct Processes {
    entries: HashMap<ProcessId, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// None where it was gone or could not be read, so that the next of its sockets need not try.
    process: Option<Arc<Process>>,
    read_at: Instant,
}

impl Processes {
    /// The process, as it was 10 s before `now` at the earliest. None where it ended or cannot
    /// be read.
    pub fn get(&mut self, id: ProcessId, now: Instant) -> Option<Arc<Process>> {
        self.get_or_read(id, now, Process::read)
    }

    fn get_or_read(
        &mut self,
        id: ProcessId,
        now: Instant,
        read: impl FnOnce(ProcessId) -> Result<Process, ReadError>,
    ) -> Option<Arc<Process>> {
        if let Some(entry) = self.entries.get(&id)
            && now.saturating_duration_since(entry.read_at) < FRESH_FOR
        {
            return entry.process.clone();
        }
        let process = read(id).ok().map(Arc::new);
        // Not in place of another: with more than fit, each pass would drive out what the next
        // one asks for first, and nothing would ever be found.
        if self.entries.len() < MAX_ENTRIES || self.entries.contains_key(&id) {
            let entry = Entry {
                process: process.clone(),
                read_at: now,
            };
            self.entries.insert(id, entry);
        }
        process
    }

    /// Forgets the others.
    pub fn keep_only(&mut self, is_wanted: impl Fn(&ProcessId) -> bool) {
        self.entries.retain(|id, _| is_wanted(id));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::cgroup::CgroupIdentity, *};

    fn id(tgid: u32) -> ProcessId {
        ProcessId {
            tgid,
            start_boottime_ns: 1,
        }
    }

    fn named(id: ProcessId, name: &str) -> Process {
        Process {
            id,
            name: name.to_owned(),
            executable: None,
            cgroup: CgroupIdentity::default(),
        }
    }

    /// Gets process 7, which has this name by now. None where it is gone.
    fn get(processes: &mut Processes, now: Instant, name: Option<&str>) -> Option<String> {
        processes
            .get_or_read(id(7), now, |id| {
                name.map(|name| named(id, name)).ok_or(ReadError::Gone)
            })
            .map(|process| process.name.clone())
    }

    #[test]
    fn a_process_is_read_again_after_10_seconds() {
        let mut processes = Processes::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (now, actual, shown) in [
            (at(0), "sh", "sh"),
            (at(9), "nginx", "sh"),
            (at(10), "nginx", "nginx"),
            (at(19), "other", "nginx"),
            (at(20), "other", "other"),
            // A clock that a caller read before another one did.
            (at(15), "another", "other"),
        ] {
            let found = get(&mut processes, now, Some(actual));
            assert_eq!(found.as_deref(), Some(shown), "{actual}");
        }
    }

    #[test]
    fn a_process_that_ended_is_not_looked_for_again_at_once() {
        let mut processes = Processes::default();
        let start = Instant::now();
        assert_eq!(get(&mut processes, start, None), None);
        assert_eq!(get(&mut processes, start, Some("sh")), None);
        let later = start + FRESH_FOR;
        assert_eq!(
            get(&mut processes, later, Some("sh")).as_deref(),
            Some("sh")
        );
        assert_eq!(get(&mut processes, later + FRESH_FOR, None), None);
    }

    #[test]
    fn those_that_are_not_wanted_are_forgotten() {
        let mut processes = Processes::default();
        let now = Instant::now();
        for tgid in 1..=4 {
            processes.get_or_read(id(tgid), now, |id| Ok(named(id, "sh")));
        }
        processes.keep_only(|id| id.tgid % 2 == 0);
        let mut kept: Vec<u32> = processes.entries.keys().map(|id| id.tgid).collect();
        kept.sort_unstable();
        assert_eq!(kept, [2, 4]);
    }

    #[test]
    fn beyond_8192_they_are_read_but_not_remembered() {
        let mut processes = Processes::default();
        let now = Instant::now();
        for tgid in 0..10_000 {
            let process = processes.get_or_read(id(tgid), now, |id| Ok(named(id, "sh")));
            assert_eq!(process.map(|process| process.id.tgid), Some(tgid));
        }
        assert_eq!(processes.entries.len(), MAX_ENTRIES);
        // The first ones stay, and are read again when they are old.
        let later = now + FRESH_FOR;
        assert_eq!(get(&mut processes, now, Some("new")).as_deref(), Some("sh"));
        assert_eq!(
            get(&mut processes, later, Some("new")).as_deref(),
            Some("new")
        );
        assert_eq!(processes.entries.len(), MAX_ENTRIES);
    }

    #[test]
    fn a_process_that_never_was_is_not_found() {
        let mut processes = Processes::default();
        // Above the kernel's highest PID, 2^22.
        assert_eq!(processes.get(id(u32::MAX), Instant::now()), None);
    }
}
