//! Entering a network namespace, and always coming back.

use std::{
    fs::{self, File},
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, fstatfs},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use thiserror::Error;

use super::Namespace;

/// The type of the file system that namespaces are files of, from `linux/magic.h`.
const NSFS_MAGIC: u32 = 0x6e73_6673;

/// Takes the thread it lives on into other network namespaces and back.
///
/// A thread keeps the namespace it is in alive, so it may never stay: [`Visitor::visit`] is the
/// only way in, and it returns before it ends. Not `Send`: it must not come to a thread that
/// others share, such as a worker of the async runtime.
#[derive(Debug)]
pub struct Visitor {
    home: File,
    home_inode: u64,
    bound_to_thread: PhantomData<*const ()>,
}

/// Why a namespace was not visited.
#[derive(Debug, Error)]
pub enum VisitError {
    /// It vanished since it was found. Not an error.
    #[error("the namespace is gone")]
    Gone,
    /// The permissions do not reach.
    #[error(
        "{0}; entering needs CAP_SYS_ADMIN in both user namespaces, and CAP_SYS_PTRACE to open another user's"
    )]
    Denied(io::Error),
    /// Anything else.
    #[error("{0}")]
    Failed(io::Error),
}

impl Visitor {
    /// A visitor at home in the calling thread's namespace.
    pub fn new() -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let home_inode = home.metadata()?.ino();
        Ok(Self {
            home,
            home_inode,
            bound_to_thread: PhantomData,
        })
    }

    /// Inode number of the namespace that this thread is at home in.
    #[must_use]
    pub const fn home_inode(&self) -> u64 {
        self.home_inode
    }

    /// Does `work` inside `namespace`.
    pub fn visit<T>(
        &self,
        namespace: &Namespace,
        work: impl FnOnce() -> T,
    ) -> Result<T, VisitError> {
        if u64::from(namespace.inode) == self.home_inode {
            return Ok(work());
        }
        let door = open(namespace)?;
        enter(&door).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => VisitError::Denied(error),
            _ => VisitError::Failed(error),
        })?;
        // From here on the door's descriptor would only keep the namespace alive.
        drop(door);
        let way_back = WayBack(self);
        let done = work();
        drop(way_back);
        Ok(done)
    }
}

/// Returns home when dropped, whether the work ended or panicked.
struct WayBack<'a>(&'a Visitor);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.0.home) {
            // Staying would keep someone else's namespace alive and count it as ours.
            tracing::error!(%error, "cannot leave a network namespace, giving up");
            std::process::exit(1);
        }
    }
}

fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

/// Opens the first route that still leads to `namespace` and not, through a reused process or
/// descriptor number, to another one.
fn open(namespace: &Namespace) -> Result<File, VisitError> {
    let mut failure = VisitError::Gone;
    for route in &namespace.routes {
        match open_route(route, namespace.inode) {
            Ok(Some(file)) => return Ok(file),
            Ok(None) => {}
            Err(error) if is_gone(&error) => {}
            // What the kernel says too of a process that ends while the route is followed
            // (`proc_pid_get_link`).
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && has_no_process(route) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                failure = VisitError::Denied(error);
            }
            Err(error) => failure = VisitError::Failed(error),
        }
    }
    Err(failure)
}

/// Opens a route if it leads to the namespace with this inode number.
///
/// Behind it there may be anything by now: a pipe, which holds up whoever opens it until someone
/// writes, a socket, which cannot be opened, or a device, which opening does something to. So it
/// is only looked at (`O_PATH`) until it has turned out to be the namespace.
fn open_route(route: &Path, inode: u32) -> io::Result<Option<File>> {
    let place = File::from(rustix::fs::open(
        route,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    let is_it = u32::try_from(fstatfs(&place)?.f_type) == Ok(NSFS_MAGIC)
        && place.metadata()?.ino() == u64::from(inode);
    if !is_it {
        return Ok(None);
    }
    // The same file, however the route may have changed meanwhile.
    File::open(format!("/proc/thread-self/fd/{}", place.as_raw_fd())).map(Some)
}

/// Whether the `/proc/PID` that a route begins with is gone.
fn has_no_process(route: &Path) -> bool {
    let process: PathBuf = route.components().take(3).collect();
    fs::symlink_metadata(process).is_err_and(|error| is_gone(&error))
}

/// Whether a file of `/proc` failed because its process or descriptor is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixDatagram, process::Command};

    use super::*;

    fn own() -> u32 {
        let inode = File::open("/proc/self/ns/net").unwrap().metadata().unwrap();
        u32::try_from(inode.ino()).unwrap()
    }

    #[test]
    fn a_process_that_has_ended_is_told_from_one_that_may_not_be_looked_into() {
        let mut process = Command::new("true").spawn().unwrap();
        let routes = ["ns/net", "fd/3", "root/run/netns/one"]
            .map(|file| PathBuf::from(format!("/proc/{}/{file}", process.id())));
        // It has a number until it is waited for.
        assert!(!routes.iter().any(|route| has_no_process(route)));
        process.wait().unwrap();
        assert!(routes.iter().all(|route| has_no_process(route)));
        assert!(!has_no_process(Path::new("/proc/self/ns/net")));
    }

    #[test]
    fn a_route_that_leads_elsewhere_by_now_is_no_failure_and_holds_nobody_up() {
        let socket = UnixDatagram::unbound().unwrap();
        // Opened for reading, one without a writer would wait for one.
        let (pipe, writer) = io::pipe().unwrap();
        drop(writer);
        let mount_namespace = File::open("/proc/self/ns/mnt").unwrap();
        let routes = [
            format!("/proc/self/fd/{}", socket.as_raw_fd()),
            format!("/proc/self/fd/{}", pipe.as_raw_fd()),
            format!("/proc/self/fd/{}", mount_namespace.as_raw_fd()),
            "/proc/self/fd/1000000".to_owned(),
            "/proc/self/ns/net".to_owned(),
        ];
        let mut namespace = Namespace {
            inode: own(),
            routes: routes.iter().map(Into::into).collect(),
        };
        let opened = open(&namespace).unwrap();
        assert_eq!(opened.metadata().unwrap().ino(), u64::from(own()));
        namespace.routes.pop();
        assert!(matches!(open(&namespace), Err(VisitError::Gone)));
    }
}
