//! How a command gets into a network namespace.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::host::process::ask;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// What leads into network namespaces, by their inode numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespacePaths {
    /// That of the person who asks.
    own: u32,
    paths: BTreeMap<u32, String>,
}

impl NamespacePaths {
    /// What there is here: names, and processes. Whoever holds a socket need not live in its
    /// namespace.
    #[must_use]
    pub fn find() -> Self {
        let mut found = Self {
            own: inode("/proc/self/ns/net".as_ref()).unwrap_or_default(),
            paths: BTreeMap::new(),
        };
        // A file system may be mounted there that does not answer.
        let names = ask(|| Some(named_namespaces())).unwrap_or_default();
        for (path, inode) in names {
            found.insert(path, inode);
        }
        let mut pids: Vec<u32> = entries("/proc".as_ref())
            .filter_map(|name| name.parse().ok())
            .collect();
        // Processes that are older stay longer, mostly.
        pids.sort_unstable();
        for pid in pids {
            if found.add(&format!("/proc/{pid}/ns/net")) {
                continue;
            }
            // Where the first thread has ended before the others, they lead there.
            let threads = entries(format!("/proc/{pid}/task").as_ref());
            let mut threads = threads.map(|thread| format!("/proc/{pid}/task/{thread}/ns/net"));
            threads.find(|path| found.add(path));
        }
        found
    }

    /// Whether the path leads into a namespace.
    fn add(&mut self, path: &str) -> bool {
        let inode = inode(path.as_ref());
        if let Some(inode) = inode {
            self.insert(path.to_owned(), inode);
        }
        inode.is_some()
    }

    fn insert(&mut self, path: String, inode: u32) {
        // What a shell would take for more than a name is left out.
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
        if path.chars().all(is_plain) {
            self.paths.entry(inode).or_insert(path);
        }
    }

    /// A command as root in a namespace; a sentence where nothing leads there.
    pub(crate) fn command(&self, namespace: u32, command: &str) -> String {
        if namespace == self.own {
            return format!("sudo {command}");
        }
        match self.paths.get(&namespace) {
            Some(path) => format!("sudo nsenter --net={path} {command}"),
            None => format!("no process and no name here leads into network namespace {namespace}"),
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn named_namespaces() -> Vec<(String, u32)> {
    let paths = entries(NAMES.as_ref()).map(|name| format!("{NAMES}/{name}"));
    paths
        .filter_map(|path| {
            let inode = inode(path.as_ref())?;
            Some((path, inode))
        })
        .collect()
}

fn inode(path: &Path) -> Option<u32> {
    u32::try_from(fs::metadata(path).ok()?.ino()).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{super::compare::tests::HERE, *};

    /// Asked from the namespace that the test's sockets are in; process 1 leads into another.
    pub(crate) fn paths() -> NamespacePaths {
        NamespacePaths {
            own: HERE,
            paths: [(7, "/proc/1/ns/net".to_owned())].into(),
        }
    }

    #[test]
    fn a_command_goes_where_something_leads() {
        for (namespace, expected) in [
            (HERE, "sudo ss -tan"),
            (7, "sudo nsenter --net=/proc/1/ns/net ss -tan"),
            (
                8,
                "no process and no name here leads into network namespace 8",
            ),
        ] {
            assert_eq!(paths().command(namespace, "ss -tan"), expected);
        }
    }

    /// As if that were unreadable which the first thread had.
    #[test]
    fn what_leads_nowhere_is_not_taken() {
        let mut found = NamespacePaths::default();
        assert!(!found.add("/proc/self/task/0/ns/net"));
        assert!(!found.add("/proc/self/ns/net;reboot"));
        assert!(found.add("/proc/thread-self/ns/net"));
        assert_eq!(found.paths.len(), 1);
    }

    #[test]
    fn ones_own_namespace_needs_no_way_in() {
        let found = NamespacePaths::find();
        assert_eq!(found.command(found.own, "ss"), "sudo ss");
        assert!(found.paths.contains_key(&found.own));
    }
}
