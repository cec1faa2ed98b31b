//! The socket's place in the file system: taken only where it is free or our own, and given back
//! only while it is still ours.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::geteuid,
};
use thiserror::Error;

/// Others than the owner may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// How long another agent may take to bind.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Only the owner of a file may remove it.
const STICKY: u32 = 0o1000;

/// Why nothing listens there.
#[derive(Debug, Error)]
pub(super) enum NotBound {
    /// Another one is there, or is about to be.
    #[error("another agent listens there")]
    Taken,
    /// What is there is not for us to take away.
    #[error("{0}")]
    NotOurs(&'static str),
    /// The system refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A bound socket. Dropping it takes the file away, if that is still it.
#[derive(Debug)]
pub(super) struct Bound {
    path: PathBuf,
    file: (u64, u64),
    pub(super) listener: UnixListener,
}

impl Bound {
    /// Listens at `path`, and makes the folder where there is none.
    pub(super) fn bind(path: &Path) -> Result<Self, NotBound> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(folder)?;
        let lock = lock(folder)?;
        make_room(path)?;
        let listener = UnixListener::bind(path)?;
        // Until here somebody else may have connected; the kernel's word on who it is decides.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let file = identity(&fs::symlink_metadata(path)?);
        drop(lock);
        Ok(Self {
            path: path.to_owned(),
            file,
            listener,
        })
    }

    /// Whether who connects to the path still comes here.
    pub(super) fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.file)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Gone already where somebody cleans up at the same moment.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Opens the folder for one agent at a time, so that of two that start at once neither takes the
/// other's new socket for a stale one.
fn lock(folder: &Path) -> Result<File, NotBound> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = open(folder, flags, Mode::empty()).map_err(|errno| match errno {
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
            NotBound::NotOurs("its folder is a symbolic link, or no folder")
        }
        errno => io::Error::from(errno).into(),
    })?;
    let folder = File::from(opened);
    let found = folder.metadata()?;
    if !is_ours(&found) {
        return Err(NotBound::NotOurs("its folder belongs to another user"));
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0 {
        return Err(NotBound::NotOurs("other users may write to its folder"));
    }
    for _ in 0..LOCK_TRIES {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    // Whoever may look into the folder can keep its lock. Who does so for longer than it takes to
    // bind is no agent that starts.
    Ok(folder)
}

/// Root's, or the agent's own user's.
fn is_ours(file: &fs::Metadata) -> bool {
    [0, geteuid().as_raw()].contains(&file.uid())
}

/// Removes the socket of an agent that was killed.
fn make_room(path: &Path) -> Result<(), NotBound> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if found.is_symlink() {
        return Err(NotBound::NotOurs("there is a symbolic link"));
    }
    if !found.file_type().is_socket() {
        return Err(NotBound::NotOurs("there is something else than a socket"));
    }
    if !is_ours(&found) {
        return Err(NotBound::NotOurs("there is a socket of another user"));
    }
    let asking = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
    .map_err(io::Error::from)?;
    let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
    match connect(&asking, &address) {
        Err(rustix::io::Errno::CONNREFUSED) => {
            fs::remove_file(path)?;
            Ok(())
        }
        // One that is too busy to be connected to is there too.
        _ => Err(NotBound::Taken),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused(path: &Path) -> String {
        Bound::bind(path).expect_err("it was bound").to_string()
    }

    #[test]
    fn a_folder_is_made_for_everybody_to_enter_and_the_socket_for_nobody_to_connect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/deep/control.sock");
        let bound = Bound::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(path.parent().unwrap()) & 0o055, 0o055);
        assert_eq!(mode(&path), 0o600);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_one_that_is_listened_on_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let first = UnixListener::bind(&path).unwrap();
        assert!(matches!(Bound::bind(&path), Err(NotBound::Taken)));
        drop(first);
        let second = Bound::bind(&path).unwrap();
        assert!(second.is_in_place());
        assert!(matches!(Bound::bind(&path), Err(NotBound::Taken)));
    }

    #[test]
    fn who_keeps_the_lock_of_the_folder_keeps_nobody_from_binding() {
        let folder = tempfile::tempdir().unwrap();
        let kept = File::open(folder.path()).unwrap();
        flock(&kept, FlockOperation::NonBlockingLockExclusive).unwrap();
        Bound::bind(&folder.path().join("control.sock")).unwrap();
    }

    #[test]
    fn one_that_is_too_busy_to_answer_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let busy = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&busy, 0).unwrap();
        let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(matches!(Bound::bind(&path), Err(NotBound::Taken)));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "text").unwrap();
        fs::create_dir(path("folder")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink(path("folder"), path("linked")).unwrap();
        for (name, words) in [
            ("file", "something else"),
            ("folder", "something else"),
            ("dangling", "symbolic link"),
            ("link", "symbolic link"),
            ("linked/control.sock", "symbolic link"),
        ] {
            let said = refused(&path(name));
            assert!(said.contains(words), "{name}: {said}");
        }
        assert_eq!(fs::read_to_string(path("file")).unwrap(), "text");
        assert!(path("dangling").is_symlink() && path("folder").is_dir());
        assert!(!path("nowhere").exists());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let mode = |mode| fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        mode(0o777);
        assert!(refused(&path).contains("other users may write"));
        // As in /tmp, nobody can take another's away.
        mode(0o1777);
        Bound::bind(&path).unwrap();
    }

    #[test]
    fn what_took_our_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let bound = Bound::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!bound.is_in_place());
        let other = Bound::bind(&path).unwrap();
        drop(bound);
        assert!(other.is_in_place());
    }
}
