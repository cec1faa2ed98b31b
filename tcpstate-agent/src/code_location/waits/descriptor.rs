//! What a descriptor is, for people.

use std::fs;

use rustc_hash::FxHashMap;

use super::watching::EPOLL;
use crate::{
    code_location::{
        memory::Memory,
        tcp_table::{Descriptors, IO_URING, TcpSocket, TcpTable, is_tcp, protocol, socket_inode},
    },
    host::process::terminal_text,
};

/// More descriptors of one poll() are only counted.
const POLLED: u64 = 64;

/// What a process holds.
#[derive(Debug, Default)]
pub struct Held {
    pid: u32,
    descriptors: Descriptors,
    sockets: FxHashMap<u64, TcpSocket>,
}

impl Held {
    /// Puts together what was read of a process.
    #[must_use]
    pub fn new(pid: u32, descriptors: Descriptors, table: &TcpTable) -> Self {
        Self {
            pid,
            descriptors,
            sockets: table.by_inode(),
        }
    }

    /// What a descriptor is.
    pub(super) fn describe(&self, descriptor: u32) -> String {
        let Some(target) = self.descriptors.target(descriptor) else {
            return format!("descriptor {descriptor}");
        };
        if let Some(inode) = socket_inode(target) {
            return match self.sockets.get(&inode) {
                Some(socket) => socket.describe(),
                None => describe_unlisted(protocol(self.pid, descriptor).as_deref()),
            };
        }
        match target {
            EPOLL => self.describe_epoll(descriptor),
            "anon_inode:[eventfd]" => "an eventfd".to_owned(),
            "anon_inode:[timerfd]" => "a timer".to_owned(),
            IO_URING => "an io_uring".to_owned(),
            _ if target.starts_with("pipe:") => "a pipe".to_owned(),
            _ => terminal_text(target.as_bytes()),
        }
    }

    fn describe_epoll(&self, descriptor: u32) -> String {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{descriptor}", self.pid));
        let Ok(info) = info else {
            return "an epoll".to_owned();
        };
        let watched = info.lines().filter(|line| line.starts_with("tfd:"));
        format!("an epoll of {}", descriptors(watched.count()))
    }

    /// What the `struct pollfd`s at `address` are.
    pub(super) fn describe_poll(
        &self,
        memory: Option<&dyn Memory>,
        address: u64,
        count: u64,
    ) -> Option<String> {
        /// `int fd; short events; short revents`.
        const BYTES: u64 = 8;
        if count == 0 {
            return None;
        }
        let many = || descriptors(usize::try_from(count).unwrap_or(usize::MAX));
        if count > POLLED {
            return Some(many());
        }
        let bytes = memory?.bytes(address, count * BYTES).ok()?;
        let mut all: Vec<String> = bytes
            .chunks_exact(8)
            .filter_map(|bytes| u32::try_from(i32::from_le_bytes(bytes[..4].try_into().ok()?)).ok())
            .map(|descriptor| self.describe(descriptor))
            .collect();
        all.dedup();
        match &all[..] {
            [] => None,
            [one] => Some(one.clone()),
            [one, another] => Some(format!("{one} and {another}")),
            _ => Some(many()),
        }
    }
}

/// What a socket is that is in no table of TCP's.
fn describe_unlisted(protocol: Option<&str>) -> String {
    match protocol {
        Some(protocol) if is_tcp(protocol) => {
            "a TCP socket that is not connected, or of another network namespace".to_owned()
        }
        Some(_) => "a socket that is not TCP's".to_owned(),
        None => "a socket".to_owned(),
    }
}

fn descriptors(count: usize) -> String {
    match count {
        1 => "1 descriptor".to_owned(),
        count => format!("{count} descriptors"),
    }
}
