//! Asking the kernel about network interfaces, and about what is attached to them, over route
//! netlink and ethtool's: of the network namespace that the asking thread is in, which `/sys` does not tell.
//!
//! Whatever comes is taken apart with its lengths checked (`message`).

mod filters;
mod interfaces;
mod message;
mod offloads;
mod order;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
    socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

pub use filters::{Filter, FilterError, NewFilter};
pub use interfaces::{Interface, XdpPresence};
use message::{Message, messages};
pub use offloads::{Merging, Offloads};
pub use order::{Room, before};

/// A conversation with the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// The whole table.
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// How often to ask for a list that changes while it is told.
const ATTEMPTS: u32 = 10;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the kernel fills at most with one part of an answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// What an answer is worth that was no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Whole,
    /// What was asked about has changed meanwhile.
    Torn,
}

impl Netlink {
    /// Opens one in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is 0.
        Self::open_protocol(None)
    }

    fn open_protocol(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks for a table, and makes something of each of its parts. One that changes meanwhile is
    /// asked for again.
    fn list<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..ATTEMPTS {
            let mut parsed = Vec::new();
            let answer = self.ask(kind, NLM_F_REQUEST | NLM_F_DUMP, body, |part| {
                parsed.extend(parse(part));
            })?;
            if answer == Answer::Whole {
                return Ok(parsed);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the kernel's list changes all the time",
        ))
    }

    /// Asks for a change, and waits until it is made.
    fn change(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.ask(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body, |_| ())?;
        Ok(())
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = message::request(kind, flags, self.sequence, body);
        send(self.socket.as_fd(), &request, SendFlags::empty())?;
        let mut buffer = vec![0; ANSWER_BYTES];
        let mut answer = Answer::Whole;
        loop {
            let (_, length) = recv(self.socket.as_fd(), &mut buffer[..], RecvFlags::empty())?;
            for received in messages(buffer.get(..length).unwrap_or_default()) {
                // What is left of a question that was given up.
                if received.sequence != self.sequence {
                    continue;
                }
                if received.is_interrupted {
                    answer = Answer::Torn;
                }
                match received.message {
                    Message::Part(body) => take(body),
                    Message::Done => return Ok(answer),
                    Message::Failed(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use rustix::{io::Errno, net::socketpair};

    use super::*;

    const DONE: u16 = 3;
    const PART: u16 = 16;
    const MULTI: u16 = 2;
    const TORN: u16 = 0x10 | MULTI;

    /// Has `answer` play the kernel: given how often it was asked before, it says with which kind,
    /// flags and body to answer. Returns what comes of asking for a list of bytes, and how often
    /// was asked.
    fn listed(
        answer: impl Fn(u32) -> Vec<(u16, u16, Vec<u8>)> + Sync,
    ) -> (io::Result<Vec<u8>>, u32) {
        let (ours, kernel) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let asked = AtomicU32::new(0);
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 256];
                while let Ok((_, 16..)) = recv(&kernel, &mut buffer[..], RecvFlags::empty()) {
                    let sequence = u32::from_ne_bytes(buffer[8..12].try_into().unwrap());
                    for (kind, flags, body) in answer(asked.fetch_add(1, Ordering::Relaxed)) {
                        let message = message::request(kind, flags, sequence, &body);
                        send(&kernel, &message, SendFlags::empty()).unwrap();
                    }
                }
            });
            let mut netlink = Netlink {
                socket: ours,
                sequence: 0,
            };
            netlink.list(18, &[0; 16], |part| part.first().copied())
        });
        (outcome, asked.into_inner())
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_asked_for_again() {
        let done = || (DONE, MULTI, vec![0; 4]);
        let (outcome, asked) = listed(|before| match before {
            0 => vec![(PART, MULTI, vec![1]), (PART, TORN, vec![3]), done()],
            // The last message too may be the one that says so.
            1 => vec![(PART, MULTI, vec![1]), (DONE, TORN, vec![0; 4])],
            _ => vec![(PART, MULTI, vec![1]), (PART, MULTI, vec![2]), done()],
        });
        assert_eq!((outcome.unwrap(), asked), (vec![1, 2], 3));
    }

    #[test]
    fn a_list_that_never_stands_still_is_given_up() {
        let (outcome, asked) = listed(|_| vec![(PART, TORN, vec![1]), (DONE, TORN, vec![0; 4])]);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(asked, ATTEMPTS);
    }

    #[test]
    fn a_list_that_ends_with_an_error_is_none() {
        let error = Errno::NOMEM.raw_os_error();
        let errno = (-error).to_ne_bytes().to_vec();
        let (outcome, _) = listed(|_| vec![(PART, MULTI, vec![1]), (DONE, MULTI, errno.clone())]);
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(error));
    }
}
