//! One process: which it is, its name, its executable, who runs it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use thiserror::Error;

use super::{cgroup::CgroupIdentity, printable::label_text};

/// A process as the kernel knows it. Numbers are reused, start times are not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcessId {
    /// `task->tgid`: the number in the initial PID namespace.
    pub tgid: u32,
    /// `task->start_boottime` of the thread group leader: `CLOCK_BOOTTIME` of the initial time
    /// namespace, nanoseconds.
    pub start_boottime_ns: u64,
}

/// What `/proc` tells about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which one it is.
    pub id: ProcessId,
    /// `comm` of the thread group leader, as [`label_text`]: at most 15 bytes unless escaped.
    /// Threads may have names of their own, and any of them may change it at any time.
    pub name: String,
    /// The file it executes, with ` (deleted)` behind it where that was removed or replaced.
    /// None for kernel threads, for zombies, and without CAP_SYS_PTRACE for other users'.
    pub executable: Option<PathBuf>,
    /// Who runs it. Empty where that cannot be read.
    pub cgroup: CgroupIdentity,
}

/// Why a process could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It ended, even if its number is in use again. Not an error. To one without CAP_SYS_PTRACE,
    /// a /proc mounted with `hidepid=2` shows other users' processes in the same way.
    #[error("the process is gone")]
    Gone,
    /// The permissions do not reach, as with `hidepid=1`, or the file is not what proc(5) says.
    #[error("cannot read {path}: {error}", path = path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Process {
    /// Reads a process from `/proc`, which must be of the initial PID namespace.
    pub fn read(id: ProcessId) -> Result<Self, ReadError> {
        Self::read_in(Path::new("/proc"), boottime_offset_ns(), id)
    }

    fn read_in(root: &Path, boottime_offset_ns: i64, id: ProcessId) -> Result<Self, ReadError> {
        let folder = root.join(id.tgid.to_string());
        let start_ticks = id.start_ticks(boottime_offset_ns);
        check_start(&folder, start_ticks)?;
        let mut name = read(folder.join("comm"))?;
        // The kernel adds one. Another one before it is the name's own.
        name.pop_if(|byte| *byte == b'\n');
        let process = Self {
            id,
            name: label_text(&name),
            // ENOENT may mean a kernel thread just as well as the end of the process. The check
            // below tells them apart, here as for the cgroup.
            executable: fs::read_link(folder.join("exe")).ok(),
            cgroup: fs::read(folder.join("cgroup"))
                .map(|text| CgroupIdentity::parse(&label_text(&text)))
                .unwrap_or_default(),
        };
        // Had it ended meanwhile, some of this might be another's who has the number now.
        check_start(&folder, start_ticks)?;
        Ok(process)
    }
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

/// Fails unless the process in this folder of `/proc` is the one that started then.
fn check_start(folder: &Path, start_ticks: u64) -> Result<(), ReadError> {
    let path = folder.join("stat");
    let stat = read(path.clone())?;
    let Some(found) = parse_start_ticks(&stat) else {
        let error = io::Error::new(io::ErrorKind::InvalidData, "no start time in it");
        return Err(ReadError::Unreadable { path, error });
    };
    // One tick of tolerance, for what is rounded on the way. To be mistaken for another, a
    // process would have to get the number of one that started 20 ms ago at most.
    if found.abs_diff(start_ticks) <= 1 {
        Ok(())
    } else {
        Err(ReadError::Gone)
    }
}

/// The 22nd field of `/proc/PID/stat`. The second is the name in parentheses, and since a name
/// may contain whatever the others may, only the last closing one is certain to end it.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let numbers = str::from_utf8(&stat[name_end + 1..]).ok()?;
    // The first of these is the third field.
    numbers.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn read(path: PathBuf) -> Result<Vec<u8>, ReadError> {
    fs::read(&path).map_err(|error| {
        // ESRCH where the process ends after the file is opened.
        let is_gone = error.kind() == io::ErrorKind::NotFound
            || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
        if is_gone {
            ReadError::Gone
        } else {
            ReadError::Unreadable { path, error }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{ffi::OsStrExt as _, fs::symlink},
        process::{Child, Command, Stdio},
    };

    use tempfile::TempDir;

    use super::*;

    /// As `read_in` takes it for a process that started 1 s after boot.
    const ID: ProcessId = ProcessId {
        tgid: 7,
        start_boottime_ns: 1_000_000_000,
    };

    /// A `/proc` with process 7, which started 100 ticks after boot.
    fn fake(comm: &[u8]) -> TempDir {
        let root = TempDir::new().unwrap();
        let folder = root.path().join("7");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("comm"), [comm, b"\n"].concat()).unwrap();
        fs::write(folder.join("cgroup"), "0::/system.slice/nginx.service\n").unwrap();
        symlink("/usr/sbin/nginx", folder.join("exe")).unwrap();
        write_stat(&root, comm, "100");
        root
    }

    fn write_stat(root: &TempDir, comm: &[u8], ticks: &str) {
        let numbers = format!("S 1 7 7 0 -1 4194560 1 2 0 0 3 4 5 6 20 0 1 0 {ticks} 1024 8\n");
        let stat = [b"7 (", comm, b") ", numbers.as_bytes()].concat();
        fs::write(root.path().join("7/stat"), stat).unwrap();
    }

    fn read_fake(root: &TempDir, id: ProcessId) -> Result<Process, ReadError> {
        assert_eq!(rustix::param::clock_ticks_per_second(), 100);
        Process::read_in(root.path(), 0, id)
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
    fn a_process_has_name_executable_and_cgroup() {
        let process = read_fake(&fake(b"nginx"), ID).unwrap();
        let expected = Process {
            id: ID,
            name: "nginx".to_owned(),
            executable: Some(PathBuf::from("/usr/sbin/nginx")),
            cgroup: CgroupIdentity {
                unit: "nginx.service".to_owned(),
                ..CgroupIdentity::default()
            },
        };
        assert_eq!(process, expected);
    }

    #[test]
    fn a_name_may_contain_anything() {
        for (comm, name) in [
            (b"".as_slice(), ""),
            (b") R 1 2", ") R 1 2"),
            (b"a) S 1 2 (b", "a) S 1 2 (b"),
            (b"two\nlines\n", "two\nlines\n"),
            (b"\xff\x1b[2J", r"\xff\x1b[2J"),
            (b"((sd-pam))", "((sd-pam))"),
        ] {
            assert_eq!(read_fake(&fake(comm), ID).unwrap().name, name, "{comm:?}");
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
            let read = read_fake(
                &root,
                ProcessId {
                    start_boottime_ns,
                    ..ID
                },
            );
            match read {
                Ok(_) => assert!(is_same, "{start_boottime_ns}"),
                Err(ReadError::Gone) => assert!(!is_same, "{start_boottime_ns}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn the_time_namespace_of_the_reader_shifts_the_start_time() {
        let root = fake(b"nginx");
        let id = ProcessId {
            start_boottime_ns: 60_000_000_000,
            ..ID
        };
        assert!(Process::read_in(root.path(), -59_000_000_000, id).is_ok());
        assert!(Process::read_in(root.path(), 59_000_000_000, id).is_err());
        assert!(Process::read_in(root.path(), i64::MIN, id).is_err());
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
        assert!(Process::read_in(root.path(), -1_000_000_000_000, id).is_ok());
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
    fn kernel_threads_have_no_executable() {
        let root = fake(b"kworker/0:1");
        fs::remove_file(root.path().join("7/exe")).unwrap();
        fs::remove_file(root.path().join("7/cgroup")).unwrap();
        let process = read_fake(&root, ID).unwrap();
        assert_eq!(process.executable, None);
        assert_eq!(process.cgroup, CgroupIdentity::default());
    }

    #[test]
    fn a_cgroup_that_is_not_utf_8_is_spelled_out() {
        let root = fake(b"nginx");
        fs::write(root.path().join("7/cgroup"), b"0::/\xff\x1b.service\n").unwrap();
        assert_eq!(
            read_fake(&root, ID).unwrap().cgroup.unit,
            r"\xff\x1b.service"
        );
    }

    #[test]
    fn text_that_is_no_stat_is_refused() {
        let root = fake(b"nginx");
        for stat in ["", "7", "7 (nginx", "7 (nginx) S 1 2", "\u{fffd})"] {
            fs::write(root.path().join("7/stat"), stat).unwrap();
            let error = read_fake(&root, ID).unwrap_err();
            assert!(matches!(error, ReadError::Unreadable { .. }), "{stat:?}");
        }
        write_stat(&root, b"nginx", "-1");
        let error = read_fake(&root, ID).unwrap_err().to_string();
        assert!(error.contains("/7/stat: no start time in it"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_gone() {
        let root = fake(b"nginx");
        let other = ProcessId { tgid: 8, ..ID };
        assert!(matches!(read_fake(&root, other), Err(ReadError::Gone)));
        fs::remove_file(root.path().join("7/comm")).unwrap();
        assert!(matches!(read_fake(&root, ID), Err(ReadError::Gone)));
    }

    #[test]
    fn this_process_can_be_read() {
        let id = id_of(std::process::id());
        let process = Process::read(id).unwrap();
        assert_eq!(process.id, id);
        assert_eq!(process.executable, std::env::current_exe().ok());
        let comm = fs::read(format!("/proc/{}/comm", id.tgid)).unwrap();
        assert_eq!(process.name.as_bytes(), comm.strip_suffix(b"\n").unwrap());
    }

    #[test]
    fn another_start_time_is_not_this_process() {
        let mut id = id_of(std::process::id());
        id.start_boottime_ns += 1_000_000_000;
        assert!(matches!(Process::read(id), Err(ReadError::Gone)));
    }

    #[test]
    fn a_process_that_ended_is_gone() {
        let child = start_cat();
        let id = id_of(child.id());
        let executable = Process::read(id).unwrap().executable.unwrap();
        assert!(executable.as_os_str().as_bytes().starts_with(b"/"));
        end(child);
        assert!(matches!(Process::read(id), Err(ReadError::Gone)));
    }
}
