//! Which process to look at.

use std::{fs, io, path::Path};

use rustc_hash::{FxHashMap, FxHashSet};
use thiserror::Error;
use tracing::debug;

use super::{
    elsewhere::KernelDescriptors,
    proc_status,
    tcp_table::{Descriptors, TcpSocket, TcpTable},
};
use crate::{collect::owners::CgroupIdentity, host::process::label_text};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This process.
    Pid(u32),
    /// The one that listens on this port, or is connected to it.
    Port(u16),
    /// The one of this name.
    Process(String),
    /// The one of this systemd unit.
    Unit(String),
}

/// A process that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub pid: u32,
    /// What it calls itself, as [`label_text`].
    pub name: String,
    /// Sockets in CLOSE_WAIT that it holds.
    pub close_wait: usize,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The one with the most sockets in CLOSE_WAIT.
    pub process: Candidate,
    /// The others that fit, likewise.
    pub others: Vec<Candidate>,
    /// Why it is not sure that none of the others has more.
    pub unsure: Option<String>,
}

/// Why no process can be looked at.
#[derive(Debug, Error)]
pub enum TargetError {
    /// There is none.
    #[error("no process {0}")]
    None(String),
    /// It is part of the kernel.
    #[error("process {0} is a kernel thread: it has no code of its own to look at")]
    Kernel(u32),
    /// It has ended, and its parent has not asked how.
    #[error("process {0} has ended (a zombie)")]
    Zombie(u32),
    /// It is a thread of another one.
    #[error("{thread} is a thread of process {process} (use --pid {process})")]
    Thread {
        /// What was asked for.
        thread: u32,
        /// Its process.
        process: u32,
    },
    /// This sees other numbers than the kernel.
    #[error(
        "not in the host's PID namespace, so that the kernel has other numbers for these processes \
         (run it on the host, or in a container with the host's PID namespace)"
    )]
    PidNamespace,
    /// /proc cannot be read.
    #[error("cannot read {0}: {1}")]
    Proc(String, io::Error),
}

/// Inode number of the initial PID namespace, `PROC_PID_INIT_INO` of the kernel's
/// include/linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Fails where this process's numbers are not the kernel's.
pub fn check_pid_namespace() -> Result<(), TargetError> {
    let own = fs::read_link("/proc/self/ns/pid")
        .map_err(|error| TargetError::Proc("/proc/self/ns/pid".to_owned(), error))?;
    if own == Path::new(INITIAL_PID_NAMESPACE) {
        Ok(())
    } else {
        Err(TargetError::PidNamespace)
    }
}

/// Finds the process that was asked for. `kernel` tells of sockets in network namespaces that no
/// process is in.
pub fn find(wanted: &Wanted, kernel: &mut KernelDescriptors) -> Result<Target, TargetError> {
    let mut table = TcpTable::default();
    let mut found = match wanted {
        Wanted::Pid(pid) => vec![check(*pid)?],
        Wanted::Port(port) => by_port(*port, &mut table, kernel)?,
        Wanted::Process(name) => all()?
            .into_iter()
            .filter(|pid| name_of(*pid).is_some_and(|found| found == *name))
            .collect(),
        Wanted::Unit(unit) => all()?
            .into_iter()
            .filter(|pid| is_of_unit(*pid, unit))
            .collect(),
    };
    found.retain(|pid| *pid != std::process::id() && check(*pid).is_ok());
    for pid in &found {
        if let Err(error) = table.add(*pid) {
            debug!(pid, %error, "its sockets cannot be read");
        }
    }
    let listed = table.by_inode();
    let held: Vec<(u32, Descriptors)> = found
        .into_iter()
        .map(|pid| (pid, Descriptors::read(pid).unwrap_or_default()))
        .collect();
    let (elsewhere, unsure) = close_wait_elsewhere(&held, &table, kernel);
    let mut candidates: Vec<Candidate> = held
        .iter()
        .filter_map(|(pid, descriptors)| {
            let stuck = descriptors
                .sockets()
                .filter(|inode| listed.get(inode).is_some_and(TcpSocket::is_in_close_wait))
                .count();
            Some(Candidate {
                pid: *pid,
                name: name_of(*pid)?,
                close_wait: stuck + elsewhere.get(pid).copied().unwrap_or(0),
            })
        })
        .collect();
    candidates.sort_by_key(|candidate| (std::cmp::Reverse(candidate.close_wait), candidate.pid));
    let mut candidates = candidates.into_iter();
    let process = candidates.next().ok_or_else(|| {
        TargetError::None(match wanted {
            Wanted::Pid(pid) => pid.to_string(),
            Wanted::Port(port) => format!("listens on port {port} or is connected to it"),
            Wanted::Process(name) => format!("is called {name:?}"),
            Wanted::Unit(unit) => format!("belongs to unit {unit:?}"),
        })
    })?;
    let others: Vec<Candidate> = candidates.collect();
    Ok(Target {
        process,
        // Of one alone, it is said where its sockets are.
        unsure: unsure.filter(|_| !others.is_empty()),
        others,
    })
}

/// How many sockets in CLOSE_WAIT each of these processes holds in namespaces that `table` does not
/// cover, and why that is not sure.
fn close_wait_elsewhere(
    held: &[(u32, Descriptors)],
    table: &TcpTable,
    kernel: &mut KernelDescriptors,
) -> (FxHashMap<u32, usize>, Option<String>) {
    let listed = table.by_inode();
    let unlisted: FxHashSet<u32> = held
        .iter()
        .filter(|(pid, descriptors)| descriptors.have_unlisted_tcp(*pid, &listed))
        .map(|(pid, _)| *pid)
        .collect();
    if unlisted.is_empty() {
        return (FxHashMap::default(), None);
    }
    match kernel.held(table, |pid| unlisted.contains(&pid)) {
        Ok(found) => {
            let counts = found.into_iter().map(|(pid, elsewhere)| {
                let own = elsewhere.stuck.iter();
                (pid, own.filter(|stuck| stuck.remote.is_some()).count())
            });
            (counts.collect(), None)
        }
        Err(error) => (
            FxHashMap::default(),
            Some(format!(
                "{} of the processes that fit hold TCP sockets that are not connected, or are of \
                 network namespaces that no such process is in: those in CLOSE_WAIT among them are \
                 not in the counts ({error})",
                unlisted.len()
            )),
        ),
    }
}

fn check(pid: u32) -> Result<u32, TargetError> {
    let none = || TargetError::None(pid.to_string());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| none())?;
    let field = |name: &str| proc_status::words(&status, name)?.next();
    let process: u32 = field("Tgid:")
        .and_then(|number| number.parse().ok())
        .ok_or_else(none)?;
    if process != pid {
        return Err(TargetError::Thread {
            thread: pid,
            process,
        });
    }
    match field("State:") {
        Some("Z" | "X") => Err(TargetError::Zombie(pid)),
        // Kernel threads have no memory of their own.
        _ if field("VmSize:").is_none() => Err(TargetError::Kernel(pid)),
        _ => Ok(pid),
    }
}

fn all() -> Result<Vec<u32>, TargetError> {
    let entries =
        fs::read_dir("/proc").map_err(|error| TargetError::Proc("/proc".to_owned(), error))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// Reads the sockets of all namespaces that processes are in into `table`.
fn by_port(
    port: u16,
    table: &mut TcpTable,
    kernel: &mut KernelDescriptors,
) -> Result<Vec<u32>, TargetError> {
    let mut all = all()?;
    // A process may hold sockets of a namespace that others are in.
    for pid in &all {
        if let Err(error) = table.add_namespace_of(Path::new(&format!("/proc/{pid}"))) {
            debug!(pid, %error, "not looked at");
        }
    }
    let of_port: FxHashSet<u64> = table
        .sockets
        .iter()
        .filter(|socket| {
            socket.inode != 0 && [socket.local.port(), socket.remote.port()].contains(&port)
        })
        .map(|socket| socket.inode)
        .collect();
    let elsewhere = kernel
        .with_port(port, table)
        .inspect_err(|error| debug!(%error, "only namespaces that processes are in"))
        .unwrap_or_default();
    let holds = |pid: u32| {
        let descriptors = Descriptors::read(pid).unwrap_or_default();
        descriptors.sockets().any(|inode| of_port.contains(&inode))
    };
    all.retain(|pid| elsewhere.contains(pid) || !of_port.is_empty() && holds(*pid));
    Ok(all)
}

fn is_of_unit(pid: u32, unit: &str) -> bool {
    let Ok(cgroup) = fs::read(format!("/proc/{pid}/cgroup")) else {
        return false;
    };
    let found = CgroupIdentity::parse(&label_text(&cgroup)).unit;
    found == unit || found.strip_suffix(".service") == Some(unit)
}

fn name_of(pid: u32) -> Option<String> {
    let mut name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    name.pop_if(|byte| *byte == b'\n');
    Some(label_text(&name))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn found(wanted: &Wanted) -> Result<Target, TargetError> {
        find(wanted, &mut KernelDescriptors::new(false))
    }

    #[test]
    fn what_cannot_be_looked_at_is_named() {
        let error = found(&Wanted::Pid(u32::MAX)).unwrap_err().to_string();
        assert_eq!(error, "no process 4294967295");
        let error = found(&Wanted::Process("no such name".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "no process is called \"no such name\"");
        let error = found(&Wanted::Unit("none.service".to_owned())).unwrap_err();
        assert!(error.to_string().contains("none.service"));
    }

    #[test]
    fn a_thread_leads_to_its_process() {
        let own = std::process::id();
        let thread = std::thread::spawn(|| {
            let own = fs::read_link("/proc/thread-self").unwrap();
            let number = own.file_name().unwrap().to_str().unwrap().parse().unwrap();
            (number, check(number))
        });
        let (number, found) = thread.join().unwrap();
        match found.unwrap_err() {
            TargetError::Thread { thread, process } => assert_eq!((thread, process), (number, own)),
            error => panic!("{error}"),
        }
    }

    #[test]
    fn who_listens_on_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut table = TcpTable::default();
        let found = by_port(port, &mut table, &mut KernelDescriptors::new(false)).unwrap();
        assert!(found.contains(&std::process::id()));
    }
}
