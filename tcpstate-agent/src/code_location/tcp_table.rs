//! The TCP sockets of a process's network namespaces, as `/proc/PID/net/tcp` has them, and which of
//! them the process holds.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fs::getxattr;
use tcpstate_common::TcpState;

use crate::collect::close_wait::Cause;

/// A TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Inode number of its network namespace; 0 where that cannot be read.
    pub namespace: u32,
    /// Its own address.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// The state, in the kernel's numbers.
    pub state: u8,
    /// Bytes that the peer has not acknowledged.
    pub unacknowledged: u32,
    /// Bytes that the process has not read; the FIN is one of them.
    pub unread: u32,
    /// 0 for one that nobody has accepted.
    pub inode: u64,
}

impl TcpSocket {
    /// Whether the peer has closed it and the process has not.
    #[must_use]
    pub const fn is_in_close_wait(&self) -> bool {
        self.state == TcpState::CloseWait as u8
    }

    /// Whether it listens.
    #[must_use]
    pub const fn is_listening(&self) -> bool {
        self.state == TcpState::Listen as u8
    }

    /// Why it stays in CLOSE_WAIT, where it does.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match (self.inode, self.unread, self.unacknowledged) {
            (0, _, _) => Cause::Unaccepted,
            (_, 0, 0) => Cause::EofRead,
            (_, 0, _) => Cause::Sending,
            (_, 1, _) => Cause::FinUnread,
            (_, _, _) => Cause::DataUnread,
        }
    }

    /// What it is, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.is_listening() {
            return format!("the listener on {}", self.local);
        }
        let state = TcpState::from_kernel(self.state).map_or_else(
            || "in a state unknown".to_owned(),
            |state| state.name().to_ascii_uppercase(),
        );
        format!("connection to {} ({state})", self.remote)
    }
}

/// The TCP sockets of the network namespaces that the threads of processes are in.
#[derive(Debug, Default)]
pub struct TcpTable {
    /// All of them.
    pub sockets: Vec<TcpSocket>,
    /// Inode numbers of the namespaces.
    namespaces: FxHashSet<u32>,
}

impl TcpTable {
    /// Reads that of one process.
    pub fn read(pid: u32) -> io::Result<Self> {
        let mut table = Self::default();
        table.add(pid)?;
        Ok(table)
    }

    /// Adds the namespaces that a process's threads are in, unless it has them already.
    pub fn add(&mut self, pid: u32) -> io::Result<()> {
        let mut failed = None;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            if let Err(error) = self.add_namespace_of(&task?.path()) {
                failed = Some(error);
            }
        }
        match failed {
            // Nothing can be read. Where something can, a thread has ended meanwhile.
            Some(error) if self.namespaces.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds the sockets of the namespace that a thread is in, unless it has them already.
    pub(super) fn add_namespace_of(&mut self, thread: &Path) -> io::Result<()> {
        // Who may not know it can read its sockets all the same.
        let namespace = fs::metadata(thread.join("ns/net")).map_or(0, |found| found.ino());
        let namespace = u32::try_from(namespace).unwrap_or(0);
        if self.namespaces.contains(&namespace) {
            return Ok(());
        }
        for name in ["net/tcp", "net/tcp6"] {
            match fs::read_to_string(thread.join(name)) {
                Ok(text) => {
                    let sockets = text.lines().filter_map(|line| parse_line(line, namespace));
                    self.sockets.extend(sockets);
                }
                // A kernel without IPv6.
                Err(error) if name == "net/tcp6" && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.namespaces.insert(namespace);
        Ok(())
    }

    /// Whether it has the sockets of a namespace.
    #[must_use]
    pub fn covers(&self, namespace: u32) -> bool {
        self.namespaces.contains(&namespace)
    }

    /// By inode number, without those that nobody has accepted.
    #[must_use]
    pub fn by_inode(&self) -> FxHashMap<u64, TcpSocket> {
        let sockets = self.sockets.iter().filter(|socket| socket.inode != 0);
        sockets.map(|socket| (socket.inode, *socket)).collect()
    }
}

/// The inode numbers of what listens on a port in the network namespace of the process or thread in
/// this folder of `/proc`. It comes first in the tables, so that no connection is read.
pub(super) fn listening_on(folder: &Path, port: u16) -> io::Result<FxHashSet<u64>> {
    let mut found = FxHashSet::default();
    for name in ["net/tcp", "net/tcp6"] {
        let table = match File::open(folder.join(name)) {
            Ok(table) => BufReader::new(table),
            Err(error) if name == "net/tcp6" && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // The first line says what is in which column.
        for line in table.lines().skip(1) {
            match parse_line(&line?, 0) {
                Some(socket) if socket.is_listening() => {
                    if socket.local.port() == port {
                        found.insert(socket.inode);
                    }
                }
                _ => break,
            }
        }
    }
    Ok(found)
}

/// What a process's descriptors lead to.
#[derive(Debug, Default)]
pub struct Descriptors(BTreeMap<u32, String>);

impl Descriptors {
    /// Reads them. Takes CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH for another user's process.
    pub fn read(pid: u32) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            // One that has been closed meanwhile has neither.
            if let Some(number) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                && let Ok(target) = fs::read_link(entry.path())
            {
                found.insert(number, target.to_string_lossy().into_owned());
            }
        }
        Ok(Self(found))
    }

    /// What a descriptor leads to.
    #[must_use]
    pub fn target(&self, descriptor: u32) -> Option<&str> {
        self.0.get(&descriptor).map(String::as_str)
    }

    /// All of them, by number.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &str)> {
        self.0
            .iter()
            .map(|(number, target)| (*number, target.as_str()))
    }

    /// The inode numbers of all sockets.
    pub fn sockets(&self) -> impl Iterator<Item = u64> {
        self.0.values().filter_map(|target| socket_inode(target))
    }

    /// Sockets that are not among those of a table, of whatever protocol.
    pub fn unlisted(&self, listed: &FxHashMap<u64, TcpSocket>) -> impl Iterator<Item = u32> {
        self.numbers_of(|inode| !listed.contains_key(&inode))
    }

    /// Whether some of the TCP sockets among these are of network namespaces that the table does not
    /// cover, or not connected, which looks the same from here.
    #[must_use]
    pub fn have_unlisted_tcp(&self, pid: u32, listed: &FxHashMap<u64, TcpSocket>) -> bool {
        self.unlisted(listed)
            .any(|descriptor| protocol(pid, descriptor).is_some_and(|found| is_tcp(&found)))
    }

    /// Connections that are among those of a table, of whatever protocol above it.
    pub fn connected(&self, listed: &FxHashMap<u64, TcpSocket>) -> impl Iterator<Item = u32> {
        self.numbers_of(|inode| {
            let socket = listed.get(&inode);
            socket.is_some_and(|socket| !socket.is_listening() && !socket.is_in_close_wait())
        })
    }

    /// The descriptors of sockets with such an inode number.
    fn numbers_of(&self, is_wanted: impl Fn(u64) -> bool) -> impl Iterator<Item = u32> {
        self.0
            .iter()
            .filter(move |(_, target)| socket_inode(target).is_some_and(&is_wanted))
            .map(|(descriptor, _)| *descriptor)
    }

    /// Whether one of them is an io_uring.
    #[must_use]
    pub fn have_io_uring(&self) -> bool {
        self.0.values().any(|target| target == IO_URING)
    }
}

/// What the link of an io_uring's descriptor says.
pub const IO_URING: &str = "anon_inode:[io_uring]";

/// The protocol of the socket that a descriptor of a process leads to, as the kernel names it:
/// `TCP`, `TCPv6`, `UDP`. `None` where it cannot be read, or is no socket.
#[must_use]
pub fn protocol(pid: u32, descriptor: u32) -> Option<String> {
    let mut name = [0; 32];
    let path = format!("/proc/{pid}/fd/{descriptor}");
    let length = getxattr(path, "system.sockprotoname", &mut name).ok()?;
    let name = name.get(..length)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Whether that is TCP, over IPv4 or IPv6.
#[must_use]
pub fn is_tcp(protocol: &str) -> bool {
    matches!(protocol, "TCP" | "TCPv6")
}

/// Whether that is MPTCP, over IPv4 or IPv6.
#[must_use]
pub fn is_mptcp(protocol: &str) -> bool {
    matches!(protocol, "MPTCP" | "MPTCPv6")
}

/// The number in `socket:[4711]`.
#[must_use]
pub fn socket_inode(target: &str) -> Option<u64> {
    let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// `  0: 0100007F:1F90 0200000A:C350 08 00000000:00000001 00:00000000 00000000  0  0 4711 …`
fn parse_line(line: &str, namespace: u32) -> Option<TcpSocket> {
    let mut fields = line.split_ascii_whitespace();
    let local = parse_address(fields.nth(1)?)?;
    let remote = parse_address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let (unacknowledged, unread) = fields.next()?.split_once(':')?;
    // The timer, its time, retransmits, the user and a timeout come before the inode number.
    let inode = fields.nth(4)?.parse().ok()?;
    Some(TcpSocket {
        namespace,
        local,
        remote,
        state,
        unacknowledged: u32::from_str_radix(unacknowledged, 16).ok()?,
        unread: u32::from_str_radix(unread, 16).ok()?,
        inode,
    })
}

/// Each word of an address is written as the number that it is to this CPU.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let address: IpAddr = if let Ok(bytes) = <[u8; 4]>::try_from(&*bytes) {
        Ipv4Addr::from(bytes).into()
    } else {
        let address = Ipv6Addr::from(<[u8; 16]>::try_from(&*bytes).ok()?);
        address.to_canonical()
    };
    Some(SocketAddr::new(
        address,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd,
    };

    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_line_of_either_family_is_read() {
        let line = "  12: 0100007F:1F90 0200000A:C350 08 00000000:00000065 00:00000000 00000000  1000        0 4711 1 0 20 4 30 10 -1";
        let socket = parse_line(line, 4).unwrap();
        assert_eq!(socket.local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(socket.remote, "10.0.0.2:50000".parse().unwrap());
        assert_eq!((socket.unread, socket.inode), (101, 4711));
        assert_eq!(socket.namespace, 4);
        assert_eq!(socket.cause(), Cause::DataUnread);
        let line = "0: 0000000000000000FFFF00000100007F:0050 00000000000000000000000001000000:0001 01 00000002:00000000 00:0 0 0 0 5";
        let socket = parse_line(line, 4).unwrap();
        assert_eq!(socket.local, "127.0.0.1:80".parse().unwrap());
        assert_eq!(socket.remote, "[::1]:1".parse().unwrap());
        assert_eq!(
            parse_line("  sl  local_address rem_address   st tx_queue", 4),
            None
        );
    }

    #[test]
    fn ones_own_sockets_are_found_among_the_descriptors() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let pid = std::process::id();
        let table = TcpTable::read(pid).unwrap().by_inode();
        let held: Vec<TcpSocket> = Descriptors::read(pid)
            .unwrap()
            .sockets()
            .filter_map(|inode| table.get(&inode).copied())
            .collect();
        let own = client.local_addr().unwrap();
        assert!(held.iter().any(|socket| socket.local == own));
        let listens = held.iter().find(|socket| socket.is_listening()).unwrap();
        assert!(listens.describe().starts_with("the listener on"));
    }

    #[test]
    fn what_is_in_no_table_is_told_by_its_protocol() {
        let unconnected = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = std::process::id();
        let table = TcpTable::read(pid).unwrap();
        let descriptors = Descriptors::read(pid).unwrap();
        let unlisted: Vec<u32> = descriptors.unlisted(&table.by_inode()).collect();
        let number = |descriptor: &dyn AsRawFd| u32::try_from(descriptor.as_raw_fd()).unwrap();
        assert!(unlisted.contains(&number(&unconnected)));
        assert!(unlisted.contains(&number(&datagrams)));
        assert!(!unlisted.contains(&number(&listener)));
        assert!(is_tcp(&protocol(pid, number(&unconnected)).unwrap()));
        assert_eq!(protocol(pid, number(&datagrams)).unwrap(), "UDP");
        assert_eq!(protocol(pid, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_harm(line in "\\PC{0,120}") {
            parse_line(&line, 4);
        }

        #[test]
        fn any_address_is_read_without_harm(text in "[0-9A-F]{0,40}:[0-9A-F]{0,5}") {
            parse_address(&text);
        }
    }
}
