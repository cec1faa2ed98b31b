//! Opening files that a process has chosen the paths of.
//!
//! Opening is an act: of a device it may rewind a tape, of a pipe it waits. So a file is first only
//! named, then looked at, and opened where it is a regular one.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

/// Where separate debug information lies.
const DEBUG_FOLDER: &[u8] = b"/usr/lib/debug/";

/// Opens the regular file that has this path where `root` is the root, and never one outside it.
pub(super) fn open_in(root: impl AsFd, path: &[u8]) -> io::Result<File> {
    let start = path.iter().position(|byte| *byte != b'/');
    let relative = &path[start.unwrap_or(path.len())..];
    open_regular(root, relative, ResolveFlags::IN_ROOT)
}

/// Opens debug information of this host's own: a file under `/usr/lib/debug` and nowhere else.
pub(super) fn open_host_debug(path: &[u8]) -> io::Result<File> {
    let relative = path
        .strip_prefix(DEBUG_FOLDER)
        .ok_or(io::ErrorKind::NotFound)?;
    let folder = File::open(Path::new(std::ffi::OsStr::from_bytes(DEBUG_FOLDER)))?;
    open_regular(folder, relative, ResolveFlags::BENEATH)
}

/// Opens the regular file that a link of `/proc` leads to.
pub(super) fn open_link(path: &str) -> io::Result<File> {
    open_regular(CWD, path.as_bytes(), ResolveFlags::empty())
}

fn open_regular(at: impl AsFd, path: &[u8], resolve: ResolveFlags) -> io::Result<File> {
    let resolve = if resolve.is_empty() {
        resolve
    } else {
        resolve | ResolveFlags::NO_MAGICLINKS
    };
    let named = openat2(
        at,
        Path::new(std::ffi::OsStr::from_bytes(path)),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    let found = FileType::from_raw_mode(fstat(&named)?.st_mode);
    if found != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file",
        ));
    }
    // The very file that was looked at.
    File::open(format!("/proc/self/fd/{}", named.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::mknodat;

    use super::*;

    #[test]
    fn regular_files_are_opened_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "x").unwrap();
        symlink("/file", path("link")).unwrap();
        symlink("/../../../../../etc/passwd", path("out")).unwrap();
        symlink("/proc/self/fd/0", path("magic")).unwrap();
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let root = File::open(folder.path()).unwrap();
        for name in ["/file", "//file", "/../file", "/link"] {
            assert!(open_in(&root, name.as_bytes()).is_ok(), "{name}");
        }
        for name in ["/fifo", "/", "", "/out", "/magic", "/none"] {
            assert!(open_in(&root, name.as_bytes()).is_err(), "{name}");
        }
        assert!(open_link(path("fifo").to_str().unwrap()).is_err());
        let host = File::open("/").unwrap();
        assert!(open_in(&host, b"/dev/null").is_err());
        let own = format!("/proc/self/fd/{}", root.as_raw_fd());
        assert!(open_link(&own).is_err());
        assert!(open_link("/proc/self/exe").is_ok());
    }

    #[test]
    fn of_the_host_only_debug_information_is_opened() {
        for path in [
            &b"/etc/passwd"[..],
            b"/usr/lib/debug/../../../etc/passwd",
            b"/usr/lib/debugged",
            b"/usr/lib/debug//etc/passwd",
        ] {
            assert!(open_host_debug(path).is_err());
        }
    }
}
