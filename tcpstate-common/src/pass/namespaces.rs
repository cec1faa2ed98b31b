//! `read_namespaces`: the kernel's list of network namespaces, and what it counts in each.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::objects::PIECE_WORDS;

/// Namespaces that one run reads at most.
pub const NAMESPACES_A_RUN: usize = 32;
/// Pieces of a `struct net` at most.
pub const MAX_NET_PIECES: usize = 16;
/// CPUs at most whose counters are added up.
pub const MAX_CPUS: usize = 1024;
/// Counters of a `struct tcp_mib` at most.
pub const MAX_TCP_MIB: usize = 16;
/// Counters of a `struct linux_mib` at most.
pub const MAX_LINUX_MIB: usize = 192;
/// Protocols whose sockets are counted: TCP over IPv4 and over IPv6.
pub const PROTOCOLS: usize = 2;

/// Which namespaces to read, and how.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NamespacesRequest {
    /// The `struct net` to begin with.
    pub first: u64,
    /// Its cookie, if `cookie` says where that is.
    pub first_cookie: u64,
    /// The one to end before.
    pub end: u64,
    /// What `ns.ops` of every namespace holds, and the head of the list does not.
    pub ops_value: u64,
    /// Where in a `struct net` its `ns.ops` are, in bytes.
    pub ops: u32,
    /// Where its node in the list is.
    pub list: u32,
    /// Where its cookie is; 0 for none.
    pub cookie: u32,
    /// Where the pointer to its `struct tcp_mib` is.
    pub tcp_mib: u32,
    /// Where the pointer to its `struct linux_mib` is.
    pub linux_mib: u32,
    /// How many counters a `struct linux_mib` has.
    pub linux_mibs: u32,
    /// Where the pointer to its `struct prot_inuse` is.
    pub in_use: u32,
    /// Where in a `struct prot_inuse` the protocols are counted; 0 for one that there is not.
    pub protocols: [u32; PROTOCOLS],
    /// Where the pieces of a `struct net` begin, in bytes. Those that are 0 are left out.
    pub pieces: [u32; MAX_NET_PIECES],
    /// CPUs whose counters are added up; 0 leaves counters out.
    pub cpus: u32,
    /// Namespaces to read in this run at most: the more CPUs, the longer each takes.
    pub at_most: u32,
    /// Always 0.
    pub padding: u32,
    /// What to add to a per-CPU pointer for each CPU.
    pub cpu_offsets: [u64; MAX_CPUS],
}

/// What was read of a namespace.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NamespaceObject {
    /// The address of its `struct net`.
    pub address: u64,
    /// Pieces of it.
    pub pieces: [[u64; PIECE_WORDS]; MAX_NET_PIECES],
    /// Its `struct tcp_mib`, over all CPUs.
    pub tcp_mib: [u64; MAX_TCP_MIB],
    /// Its `struct linux_mib`, over all CPUs.
    pub linux_mib: [u64; MAX_LINUX_MIB],
    /// Full sockets in the hash tables by protocol, over all CPUs, modulo 2^32.
    pub in_use: [u64; PROTOCOLS],
}

/// What passes between the two sides.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Namespaces {
    /// What to do.
    pub request: NamespacesRequest,
    /// The `struct net` to begin with in the next run; `request.end` once all were read.
    pub next: u64,
    /// How many were read.
    pub count: u32,
    /// 1 where `request.first` is there no more.
    pub is_lost: u32,
    /// For the program's own use: where the counters of one CPU are.
    pub cpu_linux_mib: [u64; MAX_LINUX_MIB],
    /// What was read.
    pub objects: [NamespaceObject; NAMESPACES_A_RUN],
}
