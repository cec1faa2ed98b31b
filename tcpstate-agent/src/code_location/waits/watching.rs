//! Which sockets a process watches, by what `/proc` shows of its epolls and of the calls that its
//! threads wait in.

use std::{fs, path::Path};

use rustc_hash::FxHashSet;

use super::task::{Wait, tasks};
use crate::{
    code_location::{
        memory::{Memory, ProcessMemory},
        tcp_table::{Descriptors, listening_on, socket_inode},
    },
    host::process::{ProcessId, ask_about, of_any_thread},
};

/// What the link of an epoll's descriptor says.
pub(super) const EPOLL: &str = "anon_inode:[eventpoll]";

/// `EPOLLIN`
const IN: u32 = 1;
/// `EPOLLET`
const EDGE_TRIGGERED: u32 = 1 << 31;
/// `struct pollfd` is `int fd; short events; short revents`.
const POLLFD: u64 = 8;
/// More descriptors of one call are not looked at.
const MOST: u64 = 4096;

/// Whether a process would take what comes to a port: it waits in accept() for it, or watches the
/// listening socket. Takes CAP_SYS_PTRACE for another user's process; false where that cannot be told.
#[must_use]
pub fn accepts(id: ProcessId, port: u16) -> bool {
    let found = ask_about(id, move |folder| {
        let listening = of_any_thread(folder, |thread| listening_on(thread, port).ok())?;
        let descriptors = Descriptors::read(id.tgid).ok()?;
        let of_listeners: FxHashSet<u32> = descriptors
            .all()
            .filter(|(_, target)| {
                socket_inode(target).is_some_and(|inode| listening.contains(&inode))
            })
            .map(|(number, _)| number)
            .collect();
        let watches = |watched: &Watched| {
            watched.events & IN != 0 && of_listeners.contains(&watched.descriptor)
        };
        let is_watched = !of_listeners.is_empty()
            && (watched(folder, &descriptors).any(|watched| watches(&watched))
                || waits_for(id.tgid, &of_listeners));
        Some(is_watched)
    });
    found == Some(true)
}

/// Whether a process is told by an epoll, and only once, that something has come on a descriptor: then
/// it knows, and has not read it on purpose.
#[must_use]
pub fn is_told_once(id: ProcessId, descriptor: u32) -> bool {
    let found = ask_about(id, move |folder| {
        let descriptors = Descriptors::read(id.tgid).ok()?;
        let mut watched = watched(folder, &descriptors);
        Some(watched.any(|watched| {
            watched.descriptor == descriptor && watched.events & IN != 0 && watched.is_told_once()
        }))
    });
    found == Some(true)
}

/// A descriptor that an epoll watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    descriptor: u32,
    events: u32,
}

impl Watched {
    const fn is_told_once(self) -> bool {
        self.events & EDGE_TRIGGERED != 0
    }
}

/// What the epolls of a process watch.
fn watched(folder: &Path, descriptors: &Descriptors) -> impl Iterator<Item = Watched> {
    let epolls = descriptors.all().filter(|(_, target)| *target == EPOLL);
    epolls.flat_map(move |(number, _)| {
        let info = of_any_thread(folder, |thread| {
            fs::read_to_string(thread.join(format!("fdinfo/{number}"))).ok()
        });
        parse(&info.unwrap_or_default())
    })
}

/// Lines of `tfd:        5 events:       19 data:                5  pos:0 ino:1a sdev:8`.
fn parse(info: &str) -> Vec<Watched> {
    let of_line = |line: &str| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let descriptor = words.next()?.parse().ok()?;
        let events = words.find(|word| *word != "events:")?;
        Some(Watched {
            descriptor,
            events: u32::from_str_radix(events, 16).ok()?,
        })
    };
    info.lines().filter_map(of_line).collect()
}

/// Whether a thread waits in a call for one of `listeners`.
fn waits_for(pid: u32, listeners: &FxHashSet<u32>) -> bool {
    let Ok(tasks) = tasks(pid) else {
        return false;
    };
    let memory = ProcessMemory::open(pid).ok();
    let memory = memory.as_ref().map(|memory| memory as &dyn Memory);
    tasks.iter().any(|task| match &task.wait {
        Wait::Call {
            name, arguments, ..
        } => {
            let named = call(name, *arguments, memory);
            named
                .iter()
                .any(|descriptor| listeners.contains(descriptor))
        }
        Wait::Running | Wait::Elsewhere | Wait::Hidden => false,
    })
}

/// The descriptors that a call waits for to have something to read, or to accept.
fn call(name: &str, [first, second]: [u64; 2], memory: Option<&dyn Memory>) -> Vec<u32> {
    let bytes = |address, length| memory?.bytes(address, length).ok();
    match name {
        "accept" | "accept4" => u32::try_from(first).into_iter().collect(),
        "poll" => {
            let all = bytes(first, second.min(MOST) * POLLFD).unwrap_or_default();
            let all = all.chunks_exact(8).filter_map(|one| one.first_chunk());
            all.filter_map(|number| i32::from_le_bytes(*number).try_into().ok())
                .collect()
        }
        "select" => {
            let set = bytes(second, first.min(MOST).div_ceil(8)).unwrap_or_default();
            let is_set = |number: &u32| {
                let byte = usize::try_from(number / 8).ok();
                let byte = byte.and_then(|byte| set.get(byte));
                byte.is_some_and(|byte| byte >> (number % 8) & 1 != 0)
            };
            let end = u32::try_from(first.min(MOST)).unwrap_or(0);
            (0..end).filter(is_set).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
        time::{Duration, Instant},
    };

    use rustix::event::epoll;

    use super::*;

    struct Bytes(Vec<u8>);

    impl Memory for Bytes {
        fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
            let from = usize::try_from(address).unwrap();
            let found = self.0.get(from..from + bytes.len());
            bytes.copy_from_slice(found.ok_or(io::ErrorKind::InvalidInput)?);
            Ok(())
        }
    }

    #[test]
    fn what_an_epoll_watches_is_read() {
        let info = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\n\
                    tfd:        5 events:       19 data:                5  pos:0 ino:1a sdev:8\n\
                    tfd:       12 events: 8000201f data: ffff  pos:0 ino:1b sdev:8\n\
                    tfd: x events: 1\ntfd: 7\n";
        let [level, edge] = parse(info)[..] else {
            panic!("{:?}", parse(info));
        };
        assert_eq!((level.descriptor, level.is_told_once()), (5, false));
        assert_eq!((edge.descriptor, edge.is_told_once()), (12, true));
    }

    #[test]
    fn calls_name_the_descriptors_that_they_wait_for() {
        // Two pollfds, of which the second is switched off, and a set of 3 and 10.
        let memory = Bytes(vec![
            5, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 1, 0, 0, 0, 8, 4,
        ]);
        let named = |name, arguments| call(name, arguments, Some(&memory as &dyn Memory));
        assert_eq!(named("accept4", [3, 0]), [3]);
        assert_eq!(named("poll", [0, 2]), [5]);
        assert_eq!(named("select", [11, 16]), [3, 10]);
        assert_eq!(named("select", [10, 16]), [3]);
        assert!(named("recvfrom", [3, 0]).is_empty());
        assert!(named("poll", [1_000, 2]).is_empty());
        assert!(call("poll", [0, 2], None).is_empty());
    }

    fn this_process() -> ProcessId {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let (_, behind) = stat.rsplit_once(')').unwrap();
        let ticks: u64 = behind
            .split_ascii_whitespace()
            .nth(19)
            .unwrap()
            .parse()
            .unwrap();
        ProcessId {
            tgid: std::process::id(),
            start_boottime_ns: ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second(),
        }
    }

    #[test]
    fn who_waits_in_accept_accepts_and_who_only_holds_the_socket_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!accepts(this_process(), address.port()));
        let waiting = std::thread::spawn(move || listener.accept().map(drop));
        let begun = Instant::now();
        while !accepts(this_process(), address.port()) {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        drop(TcpStream::connect(address).unwrap());
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn who_watches_a_listener_accepts_and_edges_are_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let descriptor = u32::try_from(listener.as_raw_fd()).unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let data = epoll::EventData::new_u64(0);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN).unwrap();
        assert!(accepts(this_process(), port));
        assert!(!is_told_once(this_process(), descriptor));
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::modify(&epoll, &listener, data, edges).unwrap();
        assert!(is_told_once(this_process(), descriptor));
        assert!(!is_told_once(this_process(), descriptor + 1));
        // As an activator does that has handed it on.
        epoll::modify(&epoll, &listener, data, epoll::EventFlags::empty()).unwrap();
        assert!(!accepts(this_process(), port));
    }
}
