//! How many files a process has open, and how many it may.

use std::{fs, io, path::Path};

/// The file descriptors of a process. A server without a free one accepts no connection, and
/// what it does not accept stays in the listen queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// How many are open.
    pub open: u64,
    /// How many may be open, `RLIMIT_NOFILE`, the soft one. None means no limit.
    pub limit: Option<u64>,
}

impl Descriptors {
    /// Reads them of the process that has this number now. Of other users' processes this needs
    /// CAP_SYS_PTRACE before Linux 6.2, and since then only where no file is open.
    pub fn read(tgid: u32) -> io::Result<Self> {
        Self::read_in(Path::new("/proc"), tgid)
    }

    fn read_in(root: &Path, tgid: u32) -> io::Result<Self> {
        let folder = root.join(tgid.to_string());
        let limits = fs::read_to_string(folder.join("limits"))?;
        let limit = parse_limit(&limits).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/PID/limits lacks a soft limit of open files",
            )
        })?;
        let open = match count_open(&folder.join("fd"))? {
            0 => count_in_threads(&folder.join("task")),
            counted => counted,
        };
        Ok(Self { open, limit })
    }
}

/// Since Linux 6.2 (f1f1f2569901, "proc: report open files as size in stat() for /proc/pid/fd")
/// the kernel counts, which spares reading tens of thousands of names.
fn count_open(folder: &Path) -> io::Result<u64> {
    match fs::metadata(folder)?.len() {
        // An older kernel, or no file is open.
        0 => count_entries(folder),
        counted => Ok(counted),
    }
}

/// A first thread that has ended before the others has no files any more, but the process has.
fn count_in_threads(folder: &Path) -> u64 {
    let threads = fs::read_dir(folder).into_iter().flatten().flatten();
    threads
        // One that has ended meanwhile has none.
        .filter_map(|thread| count_open(&thread.path().join("fd")).ok())
        .find(|open| *open > 0)
        .unwrap_or(0)
}

fn count_entries(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

/// Parses `Max open files            1024                 524288               files`.
/// The outer Option is whether there is such a line, the inner one is the limit.
#[expect(clippy::option_option, reason = "no limit differs from no line")]
fn parse_limit(limits: &str) -> Option<Option<u64>> {
    let values = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files "))?;
    match values.split_ascii_whitespace().next()? {
        "unlimited" => Some(None),
        soft => soft.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };

    use tempfile::TempDir;

    use super::*;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max processes             96343                96343                processes 
Max open files            1024                 524288               files     
Max locked memory         8388608              8388608              bytes     
";

    #[test]
    fn the_soft_limit_counts() {
        for (limits, limit) in [
            (LIMITS, Some(Some(1024))),
            ("Max open files  unlimited  unlimited  files\n", Some(None)),
            ("Max open files  \n", None),
            ("Max open files  -1 -1 files\n", None),
            ("Max processes   1 1 processes\n", None),
            ("", None),
        ] {
            assert_eq!(parse_limit(limits), limit, "{limits:?}");
        }
    }

    #[test]
    fn names_are_counted_where_the_kernel_does_not() {
        let folder = TempDir::new().unwrap();
        assert_eq!(count_entries(folder.path()).unwrap(), 0);
        for name in ["0", "1", "2", "17"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(count_entries(folder.path()).unwrap(), 4);
    }

    #[test]
    fn the_kernels_count_is_the_number_of_names() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        // Once it has answered it opens nothing more.
        stdin.write_all(b"ready\n").unwrap();
        stdout.read_line(&mut String::new()).unwrap();

        let descriptors = Descriptors::read(child.id()).unwrap();
        let folder = format!("/proc/{}/fd", child.id());
        let counted = count_entries(Path::new(&folder)).unwrap();
        assert_eq!(descriptors.open, counted);
        let threads = format!("/proc/{}/task", child.id());
        assert_eq!(count_in_threads(Path::new(&threads)), counted);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(descriptors.limit, limit.current);

        drop(stdin);
        child.wait().unwrap();
        let error = Descriptors::read(child.id()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn text_that_is_no_limits_is_refused() {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("7/fd")).unwrap();
        fs::write(root.path().join("7/limits"), "").unwrap();
        let error = Descriptors::read_in(root.path(), 7).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        fs::write(root.path().join("7/limits"), LIMITS).unwrap();
        let descriptors = Descriptors::read_in(root.path(), 7).unwrap();
        assert_eq!(descriptors.limit, Some(1024));
    }
}
