//! One process: which it is, its name, who runs it, its executable.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{descriptors::Descriptors, patience::ask, run_state::RunState};
use crate::collect::owners::CgroupIdentity;

/// A process as the kernel knows it. Numbers are reused, start times are not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcessId {
    /// `task->tgid`: the number in the initial PID namespace.
    pub tgid: u32,
    /// `task->start_boottime` of the thread group leader: `CLOCK_BOOTTIME` of the initial time
    /// namespace, nanoseconds.
    pub start_boottime_ns: u64,
}

/// What the kernel tells about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which one it is.
    pub id: ProcessId,
    /// `comm` of the thread group leader, as [`label_text`](super::label_text): at most 15 bytes
    /// unless escaped. Threads may have names of their own, and any of them may change it at any
    /// time.
    pub name: String,
    /// Who runs it. Empty where that cannot be read.
    pub cgroup: CgroupIdentity,
    /// Its descriptors.
    pub descriptors: Descriptors,
    /// What keeps it from going on.
    pub run_state: RunState,
}

/// The file that a process executes, with ` (deleted)` behind it where that was removed or
/// replaced. `None` where `/proc` does not tell: in another PID namespace, and without
/// CAP_SYS_PTRACE for processes of other users.
#[must_use]
pub fn executable(id: ProcessId) -> Option<PathBuf> {
    ask_about(id, |folder| {
        of_any_thread(folder, |thread| fs::read_link(thread.join("exe")).ok())
    })
}

/// Asks the folder of a process in `/proc`, if it is there that of this one: in another PID
/// namespace, or when it has ended, its number is somebody else's. `None` also where no answer comes.
pub(crate) fn ask_about<T: Send + 'static>(
    id: ProcessId,
    question: impl FnOnce(&Path) -> Option<T> + Send + 'static,
) -> Option<T> {
    ask(move || in_folder(Path::new("/proc"), boottime_offset_ns(), id, question))
}

/// The first answer of the threads of the process in this folder: where the first thread has ended
/// before the others, only they have what belongs to the process.
pub(crate) fn of_any_thread<T>(folder: &Path, ask: impl Fn(&Path) -> Option<T>) -> Option<T> {
    ask(folder).or_else(|| {
        let threads = fs::read_dir(folder.join("task")).ok()?;
        threads.flatten().find_map(|thread| ask(&thread.path()))
    })
}

fn in_folder<T>(
    root: &Path,
    boottime_offset_ns: i64,
    id: ProcessId,
    ask: impl FnOnce(&Path) -> Option<T>,
) -> Option<T> {
    let folder = root.join(id.tgid.to_string());
    let start_ticks = id.start_ticks(boottime_offset_ns);
    let is_same = || has_start(&folder, start_ticks);
    let found = is_same().then(|| ask(&folder))??;
    // Had it ended meanwhile, this might be another's who has the number now.
    is_same().then_some(found)
}

impl ProcessId {
    /// The start time as `/proc/PID/stat` has it, `nsec_to_clock_t(timens_add_boottime_ns(…))`
    /// in `do_task_stat` of the kernel's fs/proc/array.c. Before Linux 5.11 no offset was added.
    /// What started before the namespace's zero wraps around, there as here.
    fn start_ticks(self, boottime_offset_ns: i64) -> u64 {
        let shown_ns = self
            .start_boottime_ns
            .wrapping_add_signed(boottime_offset_ns);
        let ticks = u128::from(shown_ns) * u128::from(rustix::param::clock_ticks_per_second())
            / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// How much later `CLOCK_BOOTTIME` is here than in the initial time namespace. The namespace of
/// the reader decides what `/proc` shows, and it stays the same for as long as this runs.
fn boottime_offset_ns() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        // Absent without time namespaces. Strictly, these are the offsets that children get, but
        // they differ only between unshare(CLONE_NEWTIME) and fork, and this does neither.
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        parse_boottime_offset(&offsets).unwrap_or(0)
    })
}

/// Parses `boottime 604800 0` among the lines of `/proc/PID/timens_offsets`: seconds, of either
/// sign, and nanoseconds to add to them.
fn parse_boottime_offset(text: &str) -> Option<i64> {
    let offset = text
        .lines()
        .find_map(|line| line.strip_prefix("boottime "))?;
    let mut words = offset.split_ascii_whitespace();
    let seconds: i64 = words.next()?.parse().ok()?;
    let nanoseconds: i64 = words.next()?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// Whether the process in this folder of `/proc` is the one that started then.
fn has_start(folder: &Path, start_ticks: u64) -> bool {
    let stat = fs::read(folder.join("stat")).unwrap_or_default();
    // One tick of tolerance, for what is rounded on the way. To be mistaken for another, a
    // process would have to get the number of one that started 20 ms ago at most.
    parse_start_ticks(&stat).is_some_and(|found| found.abs_diff(start_ticks) <= 1)
}

/// The 22nd field of `/proc/PID/stat`. The second is the name in parentheses, and since a name
/// may contain whatever the others may, only the last closing one is certain to end it.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let numbers = str::from_utf8(&stat[name_end + 1..]).ok()?;
    // The first of these is the third field.
    numbers.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{ffi::OsStrExt as _, fs::symlink},
        process::{Child, Command, Stdio},
    };

    use tempfile::TempDir;

    use super::*;

    /// As `in_folder` takes it for a process that started 1 s after boot.
    const ID: ProcessId = ProcessId {
        tgid: 7,
        start_boottime_ns: 1_000_000_000,
    };

    /// A `/proc` with process 7, which started 100 ticks after boot.
    fn fake(comm: &[u8]) -> TempDir {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("7")).unwrap();
        symlink("/usr/sbin/nginx", root.path().join("7/exe")).unwrap();
        write_stat(&root, comm, "100");
        root
    }

    fn write_stat(root: &TempDir, comm: &[u8], ticks: &str) {
        let numbers = format!("S 1 7 7 0 -1 4194560 1 2 0 0 3 4 5 6 20 0 1 0 {ticks} 1024 8\n");
        let stat = [b"7 (", comm, b") ", numbers.as_bytes()].concat();
        fs::write(root.path().join("7/stat"), stat).unwrap();
    }

    fn is_found(root: &TempDir, offset: i64, id: ProcessId) -> bool {
        assert_eq!(rustix::param::clock_ticks_per_second(), 100);
        let executable = in_folder(root.path(), offset, id, |folder| {
            fs::read_link(folder.join("exe")).ok()
        });
        assert!(executable.is_none_or(|path| path == Path::new("/usr/sbin/nginx")));
        in_folder(root.path(), offset, id, |_| Some(())).is_some()
    }

    /// What the kernel side would report of a process that runs.
    fn id_of(tgid: u32) -> ProcessId {
        let stat = fs::read(format!("/proc/{tgid}/stat")).unwrap();
        let ticks = parse_start_ticks(&stat).unwrap();
        let shown_ns = ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second();
        let start_boottime_ns = shown_ns.checked_add_signed(-boottime_offset_ns()).unwrap();
        ProcessId {
            tgid,
            start_boottime_ns,
        }
    }

    /// Repeats what it is told until it is told no more.
    fn start_cat() -> Child {
        Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn where_the_first_thread_has_ended_another_one_is_asked() {
        let root = fake(b"server");
        let folder = root.path().join("7");
        let executable = || of_any_thread(&folder, |thread| fs::read_link(thread.join("exe")).ok());
        let expected = Some(PathBuf::from("/usr/sbin/nginx"));
        assert_eq!(executable(), expected);
        fs::remove_file(folder.join("exe")).unwrap();
        assert_eq!(executable(), None);
        for thread in ["7", "8"] {
            fs::create_dir_all(folder.join("task").join(thread)).unwrap();
        }
        symlink("/usr/sbin/nginx", folder.join("task/8/exe")).unwrap();
        assert_eq!(executable(), expected);
    }

    #[test]
    fn a_name_may_contain_anything() {
        for comm in [
            b"".as_slice(),
            b") R 1 2",
            b"a) S 1 2 (b",
            b"two\nlines\n",
            b"\xff\x1b[2J",
            b"((sd-pam))",
        ] {
            assert!(is_found(&fake(comm), 0, ID), "{comm:?}");
        }
    }

    #[test]
    fn a_start_time_that_differs_by_more_than_a_tick_is_another_process() {
        let root = fake(b"nginx");
        for (start_boottime_ns, is_same) in [
            (0, false),
            (989_999_999, false),
            (990_000_000, true),
            (1_009_999_999, true),
            (1_019_999_999, true),
            (1_020_000_000, false),
            (u64::MAX, false),
        ] {
            let id = ProcessId {
                start_boottime_ns,
                ..ID
            };
            assert_eq!(is_found(&root, 0, id), is_same, "{start_boottime_ns}");
        }
    }

    #[test]
    fn the_time_namespace_of_the_reader_shifts_the_start_time() {
        let root = fake(b"nginx");
        let id = ProcessId {
            start_boottime_ns: 60_000_000_000,
            ..ID
        };
        assert!(is_found(&root, -59_000_000_000, id));
        assert!(!is_found(&root, 59_000_000_000, id));
        assert!(!is_found(&root, i64::MIN, id));
    }

    #[test]
    fn a_start_before_the_zero_of_the_time_namespace_wraps_around() {
        let root = fake(b"systemd");
        // Seen of process 1 in a namespace that is 1000 s behind.
        write_stat(&root, b"systemd", "1844674307381");
        let id = ProcessId {
            start_boottime_ns: 100_000_000,
            ..ID
        };
        assert!(is_found(&root, -1_000_000_000_000, id));
    }

    #[test]
    fn the_offset_of_the_time_namespace_has_a_sign() {
        for (text, offset) in [
            (
                "monotonic           0         0\nboottime            0         0\n",
                Some(0),
            ),
            (
                "monotonic      172800         0\nboottime       604800         7\n",
                Some(604_800_000_000_007),
            ),
            (
                "monotonic          -1         0\nboottime           -2 500000000\n",
                Some(-1_500_000_000),
            ),
            ("monotonic          -1         0\n", None),
            ("boottime 9223372036854775807 0\n", None),
            ("boottime 1\n", None),
            ("boottime x 0\n", None),
            ("", None),
        ] {
            assert_eq!(parse_boottime_offset(text), offset, "{text:?}");
        }
    }

    #[test]
    fn text_that_is_no_stat_is_refused() {
        let root = fake(b"nginx");
        for stat in ["", "7", "7 (nginx", "7 (nginx) S 1 2", "\u{fffd})"] {
            fs::write(root.path().join("7/stat"), stat).unwrap();
            assert!(!is_found(&root, 0, ID), "{stat:?}");
        }
        write_stat(&root, b"nginx", "-1");
        assert!(!is_found(&root, 0, ID));
    }

    #[test]
    fn this_process_can_be_read_and_another_start_time_is_not_this_process() {
        let mut id = id_of(std::process::id());
        assert_eq!(executable(id), std::env::current_exe().ok());
        id.start_boottime_ns += 1_000_000_000;
        assert_eq!(executable(id), None);
    }

    #[test]
    fn a_process_that_ended_is_gone() {
        let child = start_cat();
        let id = id_of(child.id());
        assert!(
            executable(id)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .starts_with(b"/")
        );
        end(child);
        assert_eq!(executable(id), None);
    }
}
