//! Entering a network namespace, and always coming back.

use std::{
    fs::File,
    io,
    marker::PhantomData,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

use super::Namespace;

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
        match File::open(route).and_then(|file| Ok((file.metadata()?.ino(), file))) {
            Ok((inode, file)) if inode == u64::from(namespace.inode) => return Ok(file),
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                failure = VisitError::Denied(error);
            }
            Err(error) => failure = VisitError::Failed(error),
        }
    }
    Err(failure)
}

/// Whether a file of `/proc` failed because its process or descriptor is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}
