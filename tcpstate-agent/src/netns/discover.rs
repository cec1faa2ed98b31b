//! Finding every network namespace of the host.
//!
//! A namespace can be reached through a process in it (`/proc/PID/ns/net`), a mount
//! (`ip netns add`), or a descriptor that some process holds. One that is held only by its
//! sockets has none of these and cannot be entered by anyone.
//!
//! Looking at every descriptor of the host is the costly part, so it is done in rounds, slice by
//! slice; what they found is checked in between.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsStr,
    fs::{self, File},
    io,
    mem::MaybeUninit,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use procfs::process::Process;
use rustix::fs::{Dir, readlinkat_raw};

use super::enter::is_gone;

/// More routes of one kind to one namespace than that are no use.
const MAX_ROUTES: usize = 4;

/// More than `net:[4294967295]` takes.
const LINK_BYTES: usize = 32;

/// A network namespace and the paths that lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Inode number, as in `net:[4026531833]`.
    pub inode: u32,
    /// Files to open for entering it, best first.
    pub routes: Vec<PathBuf>,
}

/// What a search brought.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By inode number.
    pub namespaces: BTreeMap<u32, Namespace>,
    /// Namespaces of processes that this one may not look into.
    pub hidden: Vec<Hidden>,
}

/// A namespace whose inode number is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// A process that is in it.
    pub process: PathBuf,
    /// What [`proc_mark`] gives in it.
    pub mark: u64,
}

/// A number that is the same for all that are in one network namespace, and which may be looked
/// at where the namespace's inode number may not: the inode number of a file below the `net`
/// folder of a process or thread.
#[must_use]
pub fn proc_mark(process: &Path) -> Option<u64> {
    Some(fs::metadata(process.join("net/sockstat")).ok()?.ino())
}

/// Searches, and remembers the routes that are costly to find.
#[derive(Debug, Default)]
pub struct Discovery {
    remembered: Vec<(u32, PathBuf)>,
    /// Processes whose descriptors the present round has not looked at yet.
    waiting: Vec<PathBuf>,
}

impl Discovery {
    /// Looks at the processes, and checks the other routes that are known.
    pub fn look(&mut self) -> io::Result<Found> {
        let mut found = look_at_processes(&processes()?);
        self.remembered
            .retain(|(inode, route)| inode_of(route).is_ok_and(|found| found == *inode));
        for (inode, route) in &self.remembered {
            // Processes come and go; these stay, so they have places of their own.
            found.add(*inode, route.clone(), 2 * MAX_ROUTES);
        }
        Ok(found)
    }

    /// Looks everywhere, at once: at processes, mounts and descriptors.
    pub fn look_everywhere(&mut self) -> io::Result<Found> {
        self.begin_round()?;
        self.continue_round(Duration::MAX);
        self.look()
    }

    /// Begins a round over the mounts of every mount namespace, which it looks at now, and every
    /// descriptor of every process. What it finds shows at the next [`Discovery::look`].
    pub fn begin_round(&mut self) -> io::Result<()> {
        self.waiting = processes()?;
        self.remember_mounts();
        Ok(())
    }

    /// Goes on with the round for about as long as `slice`: at a million descriptors a whole one
    /// takes seconds. Returns whether the round is over.
    pub fn continue_round(&mut self, slice: Duration) -> bool {
        let started = Instant::now();
        while let Some(process) = self.waiting.pop() {
            self.remember_descriptors(&process);
            if started.elapsed() >= slice {
                break;
            }
        }
        self.waiting.is_empty()
    }

    fn remember_mounts(&mut self) {
        let mut seen = HashSet::new();
        for process in self.waiting.clone() {
            let Ok(mount_namespace) = fs::read_link(process.join("ns/mnt")) else {
                continue;
            };
            if !seen.insert(mount_namespace) {
                continue;
            }
            let Ok(mounts) = Process::new_with_root(process.clone()).and_then(|p| p.mountinfo())
            else {
                continue;
            };
            for mount in mounts {
                let Some(inode) = (mount.fs_type == "nsfs")
                    .then(|| parse_link(Path::new(&mount.root)))
                    .flatten()
                else {
                    continue;
                };
                // Absolute, so it is joined without its leading slash.
                let below = mount
                    .mount_point
                    .strip_prefix("/")
                    .unwrap_or(&mount.mount_point);
                self.remember(inode, process.join("root").join(below));
            }
        }
    }

    /// The one place where a million links are read: relative to their folder, and only as much
    /// of each as a namespace's takes.
    fn remember_descriptors(&mut self, process: &Path) {
        let folder = process.join("fd");
        let Ok(directory) = File::open(&folder) else {
            return;
        };
        let Ok(entries) = Dir::read_from(&directory) else {
            return;
        };
        let mut target = [MaybeUninit::uninit(); LINK_BYTES];
        for entry in entries.flatten() {
            let Ok((link, _)) = readlinkat_raw(&directory, entry.file_name(), &mut target) else {
                continue;
            };
            let link = Path::new(OsStr::from_bytes(link));
            if let Some(inode) = parse_link(link) {
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                self.remember(inode, folder.join(name));
            }
        }
    }

    fn remember(&mut self, inode: u32, route: PathBuf) {
        let mut known = self.remembered.iter().filter(|(known, _)| *known == inode);
        let is_known = known.clone().any(|(_, known)| *known == route);
        if !is_known && known.by_ref().count() < MAX_ROUTES {
            self.remembered.push((inode, route));
        }
    }
}

impl Found {
    fn add(&mut self, inode: u32, route: PathBuf, at_most: usize) {
        let namespace = self.namespaces.entry(inode).or_insert_with(|| Namespace {
            inode,
            routes: Vec::new(),
        });
        if namespace.routes.len() < at_most {
            namespace.routes.push(route);
        }
    }
}

/// `/proc/PID` of every process.
fn processes() -> io::Result<Vec<PathBuf>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if is_process {
            processes.push(entry.path());
        }
    }
    Ok(processes)
}

fn look_at_processes(processes: &[PathBuf]) -> Found {
    let mut found = Found::default();
    let mut unreadable = Vec::new();
    let mut known = HashSet::new();
    for process in processes {
        let route = process.join("ns/net");
        match inode_of(&route) {
            Ok(inode) => {
                if !found.namespaces.contains_key(&inode) {
                    known.extend(proc_mark(process));
                }
                found.add(inode, route, MAX_ROUTES);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                unreadable.push(process);
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                tracing::debug!(process = %process.display(), %error, "cannot look at a process");
            }
        }
    }
    for process in unreadable {
        if let Some(mark) = proc_mark(process)
            && known.insert(mark)
        {
            found.hidden.push(Hidden {
                process: process.clone(),
                mark,
            });
        }
    }
    found
}

/// Inode number of the network namespace that the file at `route` is, without opening it.
fn inode_of(route: &Path) -> io::Result<u32> {
    // What is mounted is no link; it is the file itself.
    match fs::read_link(route) {
        // What Linux 5.10 says where 6.1 says EACCES.
        Ok(target) if target.as_os_str().is_empty() => Err(io::ErrorKind::PermissionDenied.into()),
        Ok(target) => parse_link(&target)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not a network namespace")),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let inode = fs::metadata(route)?.ino();
            u32::try_from(inode).map_err(|_| io::ErrorKind::NotFound.into())
        }
        Err(error) => Err(error),
    }
}

/// Parses `net:[4026531833]`.
fn parse_link(target: &Path) -> Option<u32> {
    target
        .to_str()?
        .strip_prefix("net:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_network_namespaces_count() {
        for (target, inode) in [
            ("net:[4026531833]", Some(4_026_531_833)),
            ("mnt:[4026531832]", None),
            ("net:[4026531833", None),
            ("net:[99999999999]", None),
            ("net:[]", None),
            ("socket:[12]", None),
            ("/tmp/net:[1]", None),
        ] {
            assert_eq!(parse_link(Path::new(target)), inode, "{target}");
        }
    }

    #[test]
    fn ones_own_namespace_is_found() {
        let own = inode_of(Path::new("/proc/self/ns/net")).unwrap();
        let mut discovery = Discovery::default();
        assert!(discovery.look().unwrap().namespaces.contains_key(&own));
        let found = discovery.look_everywhere().unwrap();
        assert!(found.namespaces.contains_key(&own));
    }

    #[test]
    fn a_round_finds_a_descriptor_slice_by_slice_and_forgets_it_when_it_is_closed() {
        let path = PathBuf::from(format!("/proc/{}", std::process::id()));
        let namespace = File::open("/proc/self/ns/net").unwrap();
        let is_found = |discovery: &Discovery| {
            let mut routes = discovery.remembered.iter().map(|(_, route)| route);
            routes.any(|route| route.starts_with(&path))
        };
        let mut discovery = Discovery::default();
        discovery.begin_round().unwrap();
        let mut slices = 1;
        while !discovery.continue_round(Duration::ZERO) {
            slices += 1;
        }
        assert!(slices > 1, "one slice did it all");
        assert!(is_found(&discovery));
        drop(namespace);
        discovery.look().unwrap();
        assert!(!is_found(&discovery));
    }

    #[test]
    fn routes_to_one_namespace_are_bounded() {
        let mut found = Found::default();
        for number in 0..100 {
            found.add(
                1,
                PathBuf::from(format!("/proc/{number}/ns/net")),
                MAX_ROUTES,
            );
        }
        assert_eq!(found.namespaces[&1].routes.len(), MAX_ROUTES);
    }
}
