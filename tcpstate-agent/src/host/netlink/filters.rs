//! Filters of TC: how a program sees packets where the kernel has no links for that (before Linux
//! 6.6). A filter stays when its maker is gone.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use rustix::io::Errno;
use tcpstate_common::Direction;

use super::{
    NLM_F_CREATE, NLM_F_EXCL, Netlink,
    message::{add_attribute, attributes, text, u32_at},
    order::{Room, room},
};

/// A filter that is on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The interface.
    pub device: u32,
    /// Which packets it sees.
    pub direction: Direction,
    /// Its number among those of its priority.
    pub handle: u32,
    /// What it is made of: `bpf`, a program; `u32` and others, rules.
    pub kind: String,
    /// The name that its maker gave it, where it is a program.
    pub name: String,
    /// Priority and protocol, as the kernel puts them together.
    pub(super) info: u32,
}

impl Filter {
    /// Those with a lower one see a packet before.
    #[must_use]
    pub const fn priority(&self) -> u16 {
        (self.info >> 16) as u16
    }

    /// Whether programs that see every packet can have its priority too.
    pub(super) fn is_for_every_program(&self) -> bool {
        self.kind == PROGRAM && self.info & 0xffff == EVERY_PROTOCOL
    }
}

/// A filter to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewFilter<'a> {
    /// The interface.
    pub device: u32,
    /// Which packets it is to see.
    pub direction: Direction,
    /// The number that it gets.
    pub handle: u32,
    /// The name that it gets.
    pub name: &'a str,
    /// The program.
    pub program: BorrowedFd<'a>,
}

/// Why a filter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is something else where filters are held, and it holds none for this direction.
    #[error(
        "the queueing discipline `{0}` is there and stays, which has no place for what goes out"
    )]
    Taken(String),
    /// The kernel refuses.
    #[error(transparent)]
    Refused(#[from] io::Error),
}

const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
/// `struct tcmsg`.
const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const PROGRAM: &str = "bpf";
/// What the program returns is what becomes of the packet.
const DIRECT_ACTION: u32 = 1;
/// In network byte order.
const EVERY_PROTOCOL: u32 = 3_u16.to_be() as u32;
/// The queueing discipline that holds filters and nothing else.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

const fn parent(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => 0xffff_fff2,
        Direction::Egress => 0xffff_fff3,
    }
}

fn header(device: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEADER);
    body.extend([0; 4]);
    for word in [device, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body
}

impl Netlink {
    /// The filters on an interface, in the order in which they see packets.
    pub fn filters(&mut self, device: u32, direction: Direction) -> io::Result<Vec<Filter>> {
        let mut filters = self.filters_and_empty(device, direction)?;
        filters.retain(|filter| filter.handle != 0);
        Ok(filters)
    }

    /// The kernel lists each priority too, as a filter without a number.
    fn filters_and_empty(&mut self, device: u32, direction: Direction) -> io::Result<Vec<Filter>> {
        let body = header(device, 0, parent(direction), 0);
        match self.list(RTM_GETTFILTER, &body, |part| parse(part, direction)) {
            // Nothing there that could hold filters.
            Err(error) if is(&error, Errno::INVAL) || is(&error, Errno::NOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(mut filters) => {
                filters.retain(|filter| filter.device == device);
                Ok(filters)
            }
        }
    }

    /// Where on an interface there is room for a filter by this name.
    pub fn filter_room(
        &mut self,
        device: u32,
        direction: Direction,
        name: &str,
    ) -> io::Result<Room> {
        Ok(room(&self.filters_and_empty(device, direction)?, name))
    }

    /// Puts a filter before those of others on its interface, as long as there is room.
    pub fn add_filter(&mut self, filter: &NewFilter<'_>) -> Result<(), FilterError> {
        self.provide_place(filter.device, filter.direction)?;
        let room = self.filter_room(filter.device, filter.direction, filter.name)?;
        let info = u32::from(room.priority) << 16 | EVERY_PROTOCOL;
        let parent = parent(filter.direction);
        let mut body = header(filter.device, filter.handle, parent, info);
        add_attribute(&mut body, TCA_KIND, b"bpf\0");
        let mut options = Vec::new();
        let program = filter.program.as_raw_fd().to_ne_bytes();
        let name: Vec<u8> = filter.name.bytes().chain([0]).collect();
        add_attribute(&mut options, TCA_BPF_FD, &program);
        add_attribute(&mut options, TCA_BPF_NAME, &name);
        add_attribute(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
        add_attribute(&mut body, TCA_OPTIONS, &options);
        Ok(self.change(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, &body)?)
    }

    /// Makes what holds filters, where it is not there. `ingress` is in its place on some
    /// interfaces: it takes filters for both directions, and shows all of them what comes in.
    fn provide_place(&mut self, device: u32, direction: Direction) -> Result<(), FilterError> {
        let mut body = header(device, CLSACT_HANDLE, CLSACT, 0);
        add_attribute(&mut body, TCA_KIND, b"clsact\0");
        match self.change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &body) {
            Err(error) if is(&error, Errno::EXIST) => {}
            made => return Ok(made?),
        }
        let body = header(device, 0, 0, 0);
        let there = self.list(RTM_GETQDISC, &body, parse_place)?;
        let kind = there
            .into_iter()
            .find_map(|(found, kind)| (found == device).then_some(kind));
        match (kind.as_deref(), direction) {
            (Some("clsact"), _) | (Some("ingress"), Direction::Ingress) => Ok(()),
            (Some(kind), _) => Err(FilterError::Taken(kind.to_owned())),
            // Gone since.
            (None, _) => Err(io::Error::from(Errno::AGAIN).into()),
        }
    }

    /// Takes a filter away. One that is gone is no fault.
    pub fn remove_filter(&mut self, filter: &Filter) -> io::Result<()> {
        let parent = parent(filter.direction);
        let mut body = header(filter.device, filter.handle, parent, filter.info);
        add_attribute(&mut body, TCA_KIND, b"bpf\0");
        match self.change(RTM_DELTFILTER, 0, &body) {
            Err(error)
                if [Errno::NODEV, Errno::NOENT, Errno::INVAL]
                    .iter()
                    .any(|gone| is(&error, *gone)) =>
            {
                Ok(())
            }
            done => done,
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// A filter of those that every packet comes to: another may send it on to more.
fn parse(part: &[u8], direction: Direction) -> Option<Filter> {
    let mut filter = Filter {
        device: u32_at(part, 4)?,
        direction,
        handle: u32_at(part, 8)?,
        kind: String::new(),
        name: String::new(),
        info: u32_at(part, 16)?,
    };
    let mut options: &[u8] = &[];
    for (kind, value) in attributes(part.get(HEADER..)?) {
        match kind {
            TCA_KIND => filter.kind = text(value),
            TCA_OPTIONS => options = value,
            TCA_CHAIN if u32_at(value, 0)? != 0 => return None,
            _ => {}
        }
    }
    if filter.kind == PROGRAM {
        let name = attributes(options).find(|(kind, _)| *kind == TCA_BPF_NAME);
        filter.name = name.map(|(_, name)| text(name)).unwrap_or_default();
    }
    Some(filter)
}

/// What is in the place where filters are held: the interface and the kind.
fn parse_place(part: &[u8]) -> Option<(u32, String)> {
    if u32_at(part, 12)? != CLSACT {
        return None;
    }
    let kind = attributes(part.get(HEADER..)?).find(|(kind, _)| *kind == TCA_KIND);
    Some((u32_at(part, 4)?, text(kind?.1)))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::host::netlink) fn filter(
        kind: &str,
        name: &str,
        priority: u16,
        handle: u32,
    ) -> Filter {
        Filter {
            device: 3,
            direction: Direction::Egress,
            handle,
            kind: kind.to_owned(),
            name: name.to_owned(),
            info: u32::from(priority) << 16 | EVERY_PROTOCOL,
        }
    }

    fn part(kind: &[u8], chain: u32) -> Vec<u8> {
        let parent = parent(Direction::Egress);
        let mut part = header(3, 77, parent, 0xc000_0000 | EVERY_PROTOCOL);
        add_attribute(&mut part, TCA_KIND, kind);
        add_attribute(&mut part, TCA_CHAIN, &chain.to_ne_bytes());
        let mut options = Vec::new();
        add_attribute(&mut options, TCA_BPF_NAME, b"mine\0");
        add_attribute(&mut part, TCA_OPTIONS, &options);
        part
    }

    #[test]
    fn a_filter_is_taken_apart() {
        let part = part(b"bpf\0", 0);
        let parsed = parse(&part, Direction::Egress);
        assert_eq!(parsed, Some(filter("bpf", "mine", 0xc000, 77)));
        for length in 0..part.len() {
            let _ = parse(&part[..length], Direction::Egress);
        }
    }

    #[test]
    fn rules_have_no_name() {
        let parsed = parse(&part(b"u32\0", 0), Direction::Egress);
        assert_eq!(parsed, Some(filter("u32", "", 0xc000, 77)));
    }

    #[test]
    fn a_filter_that_packets_are_sent_on_to_is_none() {
        assert_eq!(parse(&part(b"bpf\0", 5), Direction::Egress), None);
    }

    #[test]
    fn what_holds_filters_is_told_from_what_holds_packets() {
        let mut part = header(3, CLSACT_HANDLE, CLSACT, 1);
        add_attribute(&mut part, TCA_KIND, b"ingress\0");
        assert_eq!(parse_place(&part), Some((3, "ingress".to_owned())));
        let mut root = header(3, 0x10_0000, 0xffff_ffff, 1);
        add_attribute(&mut root, TCA_KIND, b"fq\0");
        assert_eq!(parse_place(&root), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, Direction::Ingress);
            let _ = parse_place(&bytes);
        }
    }
}
