//! What the kernel's list of network namespaces says of one.

use tcpstate_common::pass::{MAX_NET_PIECES, NamespaceObject, NamespacesRequest, PIECE_BYTES};
use zerocopy::IntoBytes as _;

use crate::{
    collect::counters::{KernelCounter, KernelCounters},
    kernel::layout::{Field, Layout, NetLayout},
};

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelNamespace {
    /// The address of its `struct net`.
    pub net: u64,
    /// Its number, as in `/proc/PID/ns/net`.
    pub inode: u32,
    /// What no other namespace ever has; `None` before Linux 5.12.
    pub cookie: Option<u64>,
    /// Its tables of sockets: the address of its `struct inet_hashinfo`.
    pub hashinfo: u64,
    /// Timewait minisockets, whether they stand for TIME_WAIT or FIN_WAIT2.
    pub minisockets: u64,
    /// Full TCP sockets in the tables, listening ones included.
    pub in_use: u64,
    /// What the kernel has counted in it.
    pub counters: KernelCounters,
    /// What limits handshakes and what is left of connections in it.
    pub limits: Limits,
    /// The first and the last port that `connect()` may choose.
    pub port_range: (u16, u16),
    /// Where the set of those ports is that it may not choose nevertheless.
    pub reserved_ports: u64,
    /// What every port is hashed with.
    pub hash_mix: u32,
    /// `tcp_tw_reuse`: whether `connect()` takes over ports in TIME_WAIT. 0 never, 1 those with
    /// timestamps after a second, 2 the same on loopback only.
    pub tw_reuse: u64,
}

/// Limits of a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `tcp_syncookies`: 0 never, 1 when a SYN queue is full, 2 always.
    pub syncookies: u64,
    /// `somaxconn`: what no accept queue is longer than, whatever `listen()` asks for.
    pub somaxconn: u64,
    /// `tcp_max_syn_backlog`: half-open connections of a listener beyond which those are refused,
    /// without syncookies, whose peer is not known.
    pub max_syn_backlog: u64,
    /// `tcp_synack_retries`: how often a SYN-ACK is sent again.
    pub synack_retries: u64,
    /// `tcp_max_tw_buckets`: how many minisockets there may be.
    pub max_tw_buckets: u64,
}

/// Which fields of a `struct net` have to be in its pieces.
#[must_use]
pub fn wanted(layout: &NetLayout) -> Vec<Field> {
    let NetLayout {
        list: _,
        ops: _,
        inode,
        cookie,
        hash_mix,
        // The program follows these itself.
        tcp_mib: _,
        linux_mib: _,
        in_use: _,
        hashinfo,
        timewait_references,
        timewait,
        max_timewait,
        port_range,
        reserved_ports,
        tw_reuse,
        somaxconn,
        max_syn_backlog,
        syncookies,
        synack_retries,
    } = *layout;
    let always = [
        inode,
        hash_mix,
        hashinfo,
        max_timewait,
        port_range,
        reserved_ports,
        tw_reuse,
        somaxconn,
        max_syn_backlog,
        syncookies,
        synack_retries,
    ];
    let maybe = [cookie, timewait_references, timewait];
    always
        .into_iter()
        .chain(maybe.into_iter().flatten())
        .collect()
}

impl KernelNamespace {
    /// Reads it.
    #[must_use]
    pub fn of(object: &NamespaceObject, request: &NamespacesRequest, layout: &Layout) -> Self {
        let net = Pieces { object, request };
        let of = &layout.net;
        let minisockets = match (of.timewait_references, of.timewait) {
            // The table itself holds one.
            (Some(references), _) => net.number(references).saturating_sub(1),
            (None, Some(count)) => net.number(count),
            (None, None) => 0,
        };
        Self {
            net: object.address,
            inode: net.number32(of.inode),
            cookie: of.cookie.map(|cookie| net.number(cookie)),
            hashinfo: net.number(of.hashinfo),
            minisockets,
            in_use: in_use(object),
            counters: counters(object, layout),
            limits: Limits {
                syncookies: net.number(of.syncookies),
                somaxconn: net.number(of.somaxconn),
                max_syn_backlog: net.number(of.max_syn_backlog),
                synack_retries: net.number(of.synack_retries),
                max_tw_buckets: net.number(of.max_timewait),
            },
            port_range: port_range(net.number(of.port_range), of.port_range.size),
            reserved_ports: net.number(of.reserved_ports),
            hash_mix: net.number32(of.hash_mix),
            tw_reuse: net.number(of.tw_reuse),
        }
    }
}

struct Pieces<'a> {
    object: &'a NamespaceObject,
    request: &'a NamespacesRequest,
}

impl Pieces<'_> {
    fn number(&self, field: Field) -> u64 {
        let (begin, size) = (field.offset as usize, field.size as usize);
        (0..MAX_NET_PIECES)
            .find_map(|place| {
                let piece = self.request.pieces[place] as usize;
                let within = begin.checked_sub(piece).filter(|_| piece != 0)?;
                if within + size > PIECE_BYTES {
                    return None;
                }
                let bytes = self.object.pieces[place].as_bytes();
                let mut number = [0; 8];
                number
                    .get_mut(..size)?
                    .copy_from_slice(bytes.get(within..within + size)?);
                Some(u64::from_le_bytes(number))
            })
            .unwrap_or(0)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the field has four bytes")]
    fn number32(&self, field: Field) -> u32 {
        self.number(field) as u32
    }
}

/// The counts of single CPUs may be negative, and their sum, modulo 2^32, is not.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel adds them up in 32 bits too"
)]
fn in_use(object: &NamespaceObject) -> u64 {
    let of_protocol = object.in_use.iter();
    of_protocol
        .map(|count| u64::from((*count as u32).cast_signed().max(0).unsigned_abs()))
        .sum()
}

fn counters(object: &NamespaceObject, layout: &Layout) -> KernelCounters {
    let mut counters = KernelCounters::default();
    for counter in KernelCounter::ALL {
        let name = counter.kernel_name();
        let Some(place) = layout.mibs.get(name) else {
            continue;
        };
        let table: &[u64] = if name.starts_with("TCP_") {
            &object.tcp_mib
        } else {
            &object.linux_mib
        };
        counters.set(counter, table.get(*place as usize).copied());
    }
    counters
}

/// Before Linux 6.8 two numbers of four bytes, since then two of two bytes.
#[expect(clippy::cast_possible_truncation, reason = "ports have 16 bits")]
fn port_range(number: u64, size: u32) -> (u16, u16) {
    let high = if size == 8 {
        number >> 32
    } else {
        number >> 16
    };
    (number as u16, high as u16)
}
