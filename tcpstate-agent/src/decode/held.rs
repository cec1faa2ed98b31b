//! What the walk over processes has copied of the sockets that their descriptors lead to.

use std::net::{IpAddr, SocketAddr};

use tcpstate_common::{
    Family, TcpState,
    pass::{HEAD_BYTES, HELD_PIECES, HeldRecord, MAX_KINDS, NO_DESCRIPTOR, PIECE_BYTES, Wanted},
};
use zerocopy::IntoBytes as _;

use super::{
    CloseWaitSocket, DecodeError, Listener, MptcpSocket, Owner, Socket, address, family, state,
};
use crate::host::process::ProcessId;

/// Where in a socket its fields are, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldLayout {
    /// `sock_common.skc_state`
    pub state: u32,
    /// `sock_common.skc_family`
    pub family: u32,
    /// `sock_common.skc_net`
    pub net: u32,
    /// `sock_common.skc_num`
    pub local_port: u32,
    /// `sock_common.skc_dport`
    pub remote_port: u32,
    /// `sock_common.skc_daddr`
    pub remote_ipv4: u32,
    /// `sock_common.skc_v6_daddr`
    pub remote_ipv6: u32,
    /// `tcp_sock.rcv_nxt`
    pub received: u32,
    /// `tcp_sock.copied_seq`
    pub read: u32,
    /// `tcp_sock.write_seq`
    pub written: u32,
    /// `tcp_sock.snd_una`
    pub acknowledged: u32,
    /// `tcp_sock.rcv_tstamp`
    pub last_ack: u32,
    /// `inet_connection_sock.icsk_ack.lrcvtime`
    pub last_data: u32,
    /// `tcp_sock.lsndtime`
    pub last_sent: u32,
    /// `sock.sk_ack_backlog`
    pub accept_queue: u32,
    /// How the kernel counts references to a file.
    pub references: References,
}

/// What a file has for its number of references where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum References {
    /// `file.f_ref`, Linux 6.13 and later.
    #[default]
    FromZero,
    /// `file.f_count`, before.
    FromOne,
}

/// When sockets came into CLOSE_WAIT, and what the time was when they were looked at.
pub struct HeldTimes<S> {
    /// By the address of a socket, `CLOCK_MONOTONIC` nanoseconds.
    pub since: S,
    /// The lower half of `jiffies_64`.
    pub jiffies: u32,
}

/// A listener whose accept queue holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Address of its network namespace.
    pub net: u64,
    /// Its port.
    pub port: u16,
}

/// The kinds of sockets that differ in what is wanted of them.
const CLOSE_WAIT: usize = 0;
const LISTEN: usize = 1;
const OTHER: usize = 2;

impl HeldLayout {
    /// What to copy of sockets. `every`: also of those that have nothing to do with CLOSE_WAIT.
    #[must_use]
    pub fn wanted(&self, every: bool) -> Wanted {
        let mut wanted = Wanted {
            state: self.state,
            ..Wanted::default()
        };
        let of_any = [self.net, self.remote_ipv6 + 12, self.remote_ipv4];
        let of_close_wait = [
            self.received,
            self.read,
            self.written,
            self.acknowledged,
            self.last_ack,
        ];
        // Known where there is room for them.
        let more_of_close_wait = [self.last_sent, self.last_data];
        let fields: [&[u32]; MAX_KINDS] = [&of_close_wait, &[self.accept_queue], &[], &[]];
        let more: [&[u32]; MAX_KINDS] = [&more_of_close_wait, &[], &[], &[]];
        for (pieces, (fields, more)) in wanted.pieces.iter_mut().zip(fields.iter().zip(more)) {
            let mut count = 0;
            for field in fields.iter().chain(&of_any).chain(more) {
                let piece = piece_of(*field);
                let is_in_head = *field < HEAD;
                if !is_in_head && !pieces[..count].contains(&piece) && count < HELD_PIECES {
                    pieces[count] = piece;
                    count += 1;
                }
            }
        }
        wanted.states[CLOSE_WAIT] = 1 << TcpState::CloseWait as u32;
        wanted.states[LISTEN] = 1 << TcpState::Listen as u32;
        if every {
            wanted.states[OTHER] = !(wanted.states[CLOSE_WAIT] | wanted.states[LISTEN]);
        }
        wanted
    }

    /// The descriptor that a process has; `None` where it became something else while it was looked
    /// at. Also whether something is in its accept queue, for a listener.
    pub fn owner<S: Fn(u64) -> Option<u64>>(
        &self,
        wanted: &Wanted,
        record: &HeldRecord,
        process: ProcessId,
        times: &HeldTimes<S>,
    ) -> Result<Option<(Owner, Option<Queued>)>, DecodeError> {
        if record.descriptor == NO_DESCRIPTOR {
            return Ok(None);
        }
        let copied = Copied { record, wanted };
        let [raw_state] = copied.bytes(self.state);
        let [raw_family, _] = copied.bytes(self.family);
        let family = family(raw_family)?;
        let local_port = u16::from_ne_bytes(copied.bytes(self.local_port));
        let mut queued = None;
        let state = state(raw_state)?;
        let established =
            (state == TcpState::Established).then_some((record.namespace, local_port));
        let socket = match state {
            TcpState::Listen => {
                if copied.word(self.accept_queue) > 0 {
                    queued = Some(Queued {
                        net: u64::from_ne_bytes(copied.bytes(self.net)),
                        port: local_port,
                    });
                }
                Socket::Listener(Listener {
                    socket: record.sock,
                    namespace: record.namespace,
                    port: local_port,
                })
            }
            TcpState::CloseWait => Socket::CloseWait(CloseWaitSocket {
                socket: record.sock,
                namespace: record.namespace,
                since_ns: (times.since)(record.sock),
                last_ack_jiffies: times.jiffies.wrapping_sub(copied.word(self.last_ack)),
                last_data_jiffies: copied.since(self.last_data, times.jiffies),
                last_sent_jiffies: copied.since(self.last_sent, times.jiffies),
                unread: copied.difference(self.received, self.read),
                unsent: copied.difference(self.written, self.acknowledged),
                // A descriptor leads to it.
                is_accepted: true,
                local_port,
                remote: self.peer(&copied, family),
                // It is the process's that counts.
                cgroup: 0,
            }),
            _ if record.mptcp_state == TcpState::CloseWait as u32 => Socket::Mptcp(MptcpSocket {
                socket: record.sock,
                namespace: record.namespace,
                local_port,
                remote: self.peer(&copied, family),
                last_ack_jiffies: times.jiffies.wrapping_sub(copied.word(self.last_ack)),
            }),
            _ => Socket::Other(record.sock),
        };
        let destined = match socket {
            Socket::Other(_) => Some((record.namespace, self.peer(&copied, family))),
            Socket::Listener(_) | Socket::CloseWait(_) | Socket::Mptcp(_) => None,
        };
        let descriptor = match socket {
            Socket::Listener(_) => None,
            _ => Some(record.descriptor),
        };
        let owner = Owner {
            process,
            socket,
            is_shared: self.is_shared(record.references),
            unaccepted: 0,
            living: 0,
            established,
            destined,
            descriptor,
            is_cut: false,
        };
        Ok(Some((owner, queued)))
    }

    fn peer(&self, copied: &Copied<'_>, family: Family) -> SocketAddr {
        let port = u16::from_be_bytes(copied.bytes(self.remote_port));
        SocketAddr::new(self.remote(copied, family), port)
    }

    fn remote(&self, copied: &Copied<'_>, family: Family) -> IpAddr {
        let mut bytes = [0; 16];
        match family {
            Family::Ipv4 => bytes[..4].copy_from_slice(&copied.bytes::<4>(self.remote_ipv4)),
            Family::Ipv6 => bytes = copied.bytes(self.remote_ipv6),
        }
        address(family, bytes)
    }

    /// Whether something else may refer to a file besides one descriptor.
    const fn is_shared(&self, references: u64) -> bool {
        match self.references {
            References::FromZero => references > 0,
            References::FromOne => references > 1,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "128")]
const HEAD: u32 = HEAD_BYTES as u32;
#[expect(clippy::cast_possible_truncation, reason = "64")]
const PIECE: u32 = PIECE_BYTES as u32;

/// Sockets begin with a cache line, and no field lies in two.
const fn piece_of(field: u32) -> u32 {
    field & !(PIECE - 1)
}

/// The bytes of a socket that were copied.
struct Copied<'a> {
    record: &'a HeldRecord,
    wanted: &'a Wanted,
}

impl Copied<'_> {
    /// Zeros where they were not copied.
    fn bytes<const SIZE: usize>(&self, field: u32) -> [u8; SIZE] {
        let at = |bytes: &[u8], from: u32| {
            let from = usize::try_from(from).ok()?;
            bytes.get(from..)?.first_chunk().copied()
        };
        if field < HEAD {
            return at(self.record.head.as_bytes(), field).unwrap_or([0; SIZE]);
        }
        let kind = usize::try_from(self.record.kind).unwrap_or(MAX_KINDS);
        let pieces = self.wanted.pieces.get(kind).into_iter().flatten();
        let place = pieces
            .take(HELD_PIECES)
            .position(|piece| *piece == piece_of(field));
        place
            .and_then(|place| at(self.record.pieces[place].as_bytes(), field % PIECE))
            .unwrap_or([0; SIZE])
    }

    fn word(&self, field: u32) -> u32 {
        u32::from_ne_bytes(self.bytes(field))
    }

    /// Jiffies since a time that the socket has; `None` where it was not copied, or has none yet.
    fn since(&self, field: u32, now: u32) -> Option<u32> {
        let at = self.word(field);
        (at != 0).then(|| now.wrapping_sub(at))
    }

    fn difference(&self, of: u32, less: u32) -> u32 {
        self.word(of).wrapping_sub(self.word(less))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromBytes as _;

    use super::*;

    fn layout() -> HeldLayout {
        HeldLayout {
            state: 18,
            family: 16,
            net: 48,
            local_port: 14,
            remote_port: 12,
            remote_ipv4: 0,
            remote_ipv6: 56,
            received: 1664,
            read: 1464,
            written: 1576,
            acknowledged: 1672,
            last_ack: 1724,
            last_data: 1264,
            last_sent: 1584,
            accept_queue: 600,
            references: References::FromZero,
        }
    }

    const ID: ProcessId = ProcessId {
        tgid: 7,
        start_boottime_ns: 1,
    };

    fn times() -> HeldTimes<impl Fn(u64) -> Option<u64>> {
        HeldTimes {
            since: |socket| (socket == 0xabc0).then_some(9),
            jiffies: 1_000,
        }
    }

    /// Puts a field where the kernel side would.
    fn put(record: &mut HeldRecord, wanted: &Wanted, field: u32, bytes: &[u8]) {
        let (of, at) = if field < HEAD {
            (record.head.as_mut_bytes(), field)
        } else {
            let pieces = &wanted.pieces[record.kind as usize];
            let place = pieces.iter().position(|piece| *piece == piece_of(field));
            (record.pieces[place.unwrap()].as_mut_bytes(), field % PIECE)
        };
        of[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn record(kind: usize, state: TcpState) -> (HeldRecord, Wanted) {
        let layout = layout();
        let wanted = layout.wanted(true);
        let mut record = HeldRecord {
            sock: 0xabc0,
            descriptor: 5,
            namespace: 4_026_531_833,
            kind: u32::try_from(kind).unwrap(),
            ..HeldRecord::default()
        };
        put(&mut record, &wanted, layout.state, &[state as u8]);
        put(&mut record, &wanted, layout.family, &[2, 0]);
        put(
            &mut record,
            &wanted,
            layout.local_port,
            &80_u16.to_ne_bytes(),
        );
        put(
            &mut record,
            &wanted,
            layout.remote_port,
            &40_000_u16.to_be_bytes(),
        );
        put(&mut record, &wanted, layout.remote_ipv4, &[10, 1, 2, 3]);
        put(&mut record, &wanted, layout.net, &77_u64.to_ne_bytes());
        (record, wanted)
    }

    #[test]
    fn one_in_close_wait_has_its_queues_and_its_times() {
        let (mut record, wanted) = record(CLOSE_WAIT, TcpState::CloseWait);
        let layout = layout();
        for (field, value) in [
            (layout.received, 5_u32),
            (layout.read, u32::MAX),
            (layout.written, 107),
            (layout.acknowledged, 100),
            (layout.last_ack, 400),
            (layout.last_data, 300),
            (layout.last_sent, 200),
        ] {
            put(&mut record, &wanted, field, &value.to_ne_bytes());
        }
        let found = layout.owner(&wanted, &record, ID, &times()).unwrap();
        let (owner, queued) = found.unwrap();
        assert_eq!(queued, None);
        assert_eq!((owner.descriptor, owner.is_shared), (Some(5), false));
        let Socket::CloseWait(socket) = owner.socket else {
            panic!("{owner:?}");
        };
        assert_eq!(socket.remote.to_string(), "10.1.2.3:40000");
        assert_eq!((socket.unread, socket.unsent), (6, 7));
        assert_eq!((socket.since_ns, socket.last_ack_jiffies), (Some(9), 600));
        assert_eq!(socket.last_data_jiffies, Some(700));
        assert_eq!(socket.last_sent_jiffies, Some(800));
        assert!(socket.is_accepted);
    }

    #[test]
    fn an_mptcp_connection_that_its_peer_has_closed_is_told_from_its_subflow() {
        let (mut record, wanted) = record(CLOSE_WAIT, TcpState::Established);
        let layout = layout();
        let owner = |record: &HeldRecord| {
            let found = layout.owner(&wanted, record, ID, &times()).unwrap();
            found.unwrap().0
        };
        put(
            &mut record,
            &wanted,
            layout.last_ack,
            &400_u32.to_ne_bytes(),
        );
        record.mptcp_state = TcpState::Established as u32;
        assert!(matches!(owner(&record).socket, Socket::Other(0xabc0)));
        record.mptcp_state = TcpState::CloseWait as u32;
        let Socket::Mptcp(socket) = owner(&record).socket else {
            panic!("{record:?}");
        };
        assert_eq!((socket.local_port, socket.last_ack_jiffies), (80, 600));
        assert_eq!(socket.remote.to_string(), "10.1.2.3:40000");
    }

    #[test]
    fn a_listener_is_asked_for_its_queue_where_something_is_in_it() {
        let (mut record, wanted) = record(LISTEN, TcpState::Listen);
        let layout = layout();
        for (length, expected) in [(0_u32, None), (1, Some(Queued { net: 77, port: 80 }))] {
            put(
                &mut record,
                &wanted,
                layout.accept_queue,
                &length.to_ne_bytes(),
            );
            let found = layout.owner(&wanted, &record, ID, &times()).unwrap();
            let (owner, queued) = found.unwrap();
            assert_eq!(queued, expected);
            assert_eq!(owner.descriptor, None);
            assert!(matches!(
                owner.socket,
                Socket::Listener(Listener { port: 80, .. })
            ));
        }
    }

    #[test]
    fn a_descriptor_that_became_something_else_is_left_out() {
        let (mut record, wanted) = record(CLOSE_WAIT, TcpState::CloseWait);
        record.descriptor = NO_DESCRIPTOR;
        let found = layout().owner(&wanted, &record, ID, &times());
        assert_eq!(found, Ok(None));
    }

    #[test]
    fn references_count_from_what_the_kernel_counts_from() {
        for (references, count, expected) in [
            (References::FromZero, 0, false),
            (References::FromZero, 1, true),
            (References::FromOne, 1, false),
            (References::FromOne, 2, true),
        ] {
            let layout = HeldLayout {
                references,
                ..layout()
            };
            assert_eq!(layout.is_shared(count), expected, "{references:?} {count}");
        }
    }

    #[test]
    fn each_field_is_in_a_piece_wherever_the_kernel_has_it() {
        let far = HeldLayout {
            received: 1000,
            read: 1100,
            written: 1200,
            acknowledged: 1300,
            last_ack: 1400,
            last_data: 1500,
            ..layout()
        };
        let wanted = far.wanted(false);
        assert_eq!(
            wanted.pieces[CLOSE_WAIT][..6],
            [960, 1088, 1152, 1280, 1344, 0]
        );
        assert_eq!(wanted.states[OTHER], 0);
    }

    #[test]
    fn what_was_not_copied_is_not_known() {
        let (mut record, wanted) = record(CLOSE_WAIT, TcpState::CloseWait);
        let without_room = HeldLayout {
            last_data: 4_000,
            ..layout()
        };
        put(
            &mut record,
            &wanted,
            layout().last_sent,
            &1_u32.to_ne_bytes(),
        );
        let found = without_room.owner(&wanted, &record, ID, &times()).unwrap();
        let Some((
            Owner {
                socket: Socket::CloseWait(socket),
                ..
            },
            _,
        )) = found
        else {
            panic!("{found:?}");
        };
        assert_eq!(socket.last_data_jiffies, None);
        assert_eq!(socket.last_sent_jiffies, Some(999));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_owner_or_refused(bytes in prop::collection::vec(any::<u8>(), 64)) {
            let mut all = vec![0; size_of::<HeldRecord>()];
            for (place, byte) in all.iter_mut().zip(bytes.iter().cycle()) {
                *place = *byte;
            }
            let record = HeldRecord::read_from_bytes(&all).unwrap();
            let layout = layout();
            if let Ok(Some((owner, _))) =
                layout.owner(&layout.wanted(true), &record, ID, &times())
            {
                prop_assert_eq!(owner.process, ID);
            }
        }
    }
}
