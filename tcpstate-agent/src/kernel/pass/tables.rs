//! Reading the kernel's own tables: its list of network namespaces, and its hash tables of sockets,
//! of listeners and of bound ports.
//!
//! Nothing is attached and nothing is entered: the programs are run, some ten microseconds at a time,
//! and between two runs the thread can be preempted and other things can be read. How long a run
//! takes decides how much the next one is asked for.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the sizes of the buffers are far below 32 bits"
)]

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use aya::{Ebpf, maps::MapError, programs::ProgramError};
use tcpstate_common::{
    ClockSample, PORT_WORDS, PortSet, map,
    pass::{
        BLOCK_BYTES, BUCKET_WORDS, Block, MAX_LANES, MAX_UNREAD, Namespaces, NamespacesRequest,
        PER_CPU_ARRAY, Table, TableRequest,
    },
    program,
};
use thiserror::Error;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{
    super::layout::{Field, Layout},
    host::Host,
    mapped::Mapped,
    program::Program,
    socket_pieces::SocketPieces,
    stride::{ListStride, Stride},
};
use crate::decode::{KernelNamespace, object::Object};

/// Runs for one namespace after the other that has a turn, before it is given up: the list is read
/// from its beginning again each time that the place where it was left is gone.
const LIST_RUNS: usize = 65_536;
/// How often, and after which pause, the list is begun again whose first step cannot be made: another
/// CPU takes some ten nanoseconds between the two links of a namespace, unless it is a virtual one that
/// is not running just then.
const LIST_TRIES: u32 = 200;
const LIST_PAUSE: Duration = Duration::from_millis(1);

/// What the chains of bucket 0 end with, and what to add for each further bucket: nothing, the
/// number of the bucket behind a bit, or that with a bit of its own (`LISTENING_NULLS_BASE`, see
/// [`include/net/inet_hashtables.h`]).
///
/// [`include/net/inet_hashtables.h`]: https://github.com/torvalds/linux/blob/v6.12/include/net/inet_hashtables.h
const ENDS_WITH_NULL: [u64; 2] = [0, 0];
const ENDS_WITH_BUCKET: [u64; 2] = [1, 2];
const ENDS_WITH_LISTENING_BUCKET: [u64; 2] = [1 << 30 | 1, 2];

/// Why the kernel's tables cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A program could not be run.
    #[error("cannot run a program: {0}")]
    Run(#[from] ProgramError),
    /// A piece of memory could not be copied.
    #[error("cannot read the kernel's memory at {0}")]
    Memory(&'static str),
    /// The list of namespaces changed faster than it was read.
    #[error("the list of network namespaces does not come to an end")]
    Endless,
    /// So many chains of a table changed each time that they were read.
    #[error("{0} chains of a table change faster than they are read")]
    Restless(u64),
    /// The tables were read for minutes and did not come to an end.
    #[error("the tables do not come to an end")]
    TooLong,
}

/// Why the programs could not be loaded.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kernel refused a program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A map could not be had.
    #[error("cannot map the memory of a map: {0}")]
    Map(#[from] MapError),
    /// Something that every kernel has was not found.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The number of CPUs is not known.
    #[error("cannot read how many CPUs there can be: {0}")]
    Cpus(io::Error),
    /// The agent could not make a socket.
    #[error("cannot make a TCP socket: {0}")]
    Socket(#[from] io::Error),
    /// More of an object is wanted than a program copies.
    #[error("the fields of {0} are too far apart on this kernel")]
    Pieces(&'static str),
}

/// The kernel's tables.
pub struct KernelTables {
    pub(super) read_block: Program,
    read_table: Program,
    read_namespaces: Program,
    pub(super) block: Mapped<Block>,
    table: Mapped<Table>,
    namespaces: Mapped<Namespaces>,
    pub(super) layout: Arc<Layout>,
    host: Host,
    pieces: SocketPieces,
    stride: Stride,
    list_stride: ListStride,
}

/// A hash table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashTable {
    /// What it is a table of.
    pub what: Contents,
    buckets: u64,
    /// How many there are.
    pub size: u32,
    /// The namespace that it goes with, if it goes with one.
    owner: Option<Owner>,
}

/// What is in a hash table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contents {
    /// Connected and connecting sockets, half-open ones, and timewait minisockets.
    Sockets,
    /// Listening sockets.
    Listeners,
    /// Local ports that are in use.
    Ports,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    net: u64,
    cookie: u64,
}

/// What is wanted of sockets besides what all have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    /// What tells why sockets are in CLOSE_WAIT, what half-open ones wait for, and which minisockets
    /// stand for FIN_WAIT2.
    Usual,
    /// That, and whether the peers of the others answer.
    WithUnanswered,
}

/// How far the reading of a table has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The bucket to go on with.
    pub next: u32,
    /// Buckets whose chains changed while they were read, or were too long, rising: nothing was handed
    /// over of them.
    pub unread: Vec<u32>,
    /// Objects that were met.
    pub objects: usize,
    /// The node of the last of them, where its chain goes on behind it.
    pub goes_on: Option<u64>,
    /// Whether the table is still there.
    pub is_there: bool,
}

impl KernelTables {
    /// Takes its programs from the object.
    pub(super) fn take(ebpf: &mut Ebpf, layout: &Layout) -> Result<Self, OpenError> {
        let mut tables = Self {
            read_block: Program::load(ebpf, program::READ_BLOCK)?,
            read_table: Program::load(ebpf, program::READ_TABLE)?,
            read_namespaces: Program::load(ebpf, program::READ_NAMESPACES)?,
            block: Mapped::take(ebpf, map::BLOCK)?,
            table: Mapped::take(ebpf, map::TABLE)?,
            namespaces: Mapped::take(ebpf, map::KERNEL_NAMESPACES)?,
            host: Host::default(),
            layout: Arc::new(layout.clone()),
            pieces: SocketPieces::of(layout)?,
            stride: Stride::default(),
            list_stride: ListStride::default(),
        };
        tables.host = Host::find(&mut tables)?;
        Ok(tables)
    }

    /// Where things lie in what is read.
    #[must_use]
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Instructions that the verifier went through; 0 before Linux 5.16, which does not say.
    #[must_use]
    pub const fn verified(&self) -> u32 {
        self.read_block.verified() + self.read_table.verified() + self.read_namespaces.verified()
    }

    /// The agent's own network namespace: the address of its `struct net`.
    #[must_use]
    pub const fn own_net(&self) -> u64 {
        self.host.net
    }

    /// Every network namespace of the host, whether a process, a mount, a descriptor or only a
    /// socket keeps it.
    pub fn namespaces(&mut self) -> Result<Vec<KernelNamespace>, ReadError> {
        let mut found: Vec<KernelNamespace> = Vec::new();
        let own = self.host.net;
        self.namespaces.get_mut().request = self.namespaces_request();
        let mut beside_own = 0;
        for _ in 0..LIST_RUNS {
            self.namespaces.get_mut().request.at_most = self.list_stride.namespaces();
            let begun = Instant::now();
            self.read_namespaces.run()?;
            let took = begun.elapsed();
            let namespaces = self.namespaces.get();
            if namespaces.is_lost == 0 && namespaces.next != own {
                // One that came to its end early says little.
                self.list_stride.learn(namespaces.count, took);
            }
            let request = &namespaces.request;
            if namespaces.is_lost != 0 && namespaces.count == 0 {
                // The one to go on from is gone: from the beginning, which is there.
                if namespaces.request.first == own {
                    // It is there, but one beside it is being linked or unlinked.
                    beside_own += 1;
                    if beside_own == LIST_TRIES {
                        return Err(ReadError::Endless);
                    }
                    thread::sleep(LIST_PAUSE);
                }
                found.clear();
                self.begin_list_at(own, 0);
                continue;
            }
            let count = (namespaces.count as usize).min(namespaces.objects.len());
            let objects = &namespaces.objects[..count];
            found.extend(
                objects
                    .iter()
                    .map(|object| KernelNamespace::of(object, request, &self.layout)),
            );
            let next = namespaces.next;
            if next == own && namespaces.is_lost == 0 {
                return Ok(found);
            }
            let Some(last) = found.last() else {
                return Err(ReadError::Endless);
            };
            // The last one that was read can be told for certain; what came behind it, not.
            let (last, cookie) = (last.net, last.cookie.unwrap_or(0));
            found.pop();
            if found.is_empty() {
                return Err(ReadError::Endless);
            }
            self.begin_list_at(last, cookie);
        }
        Err(ReadError::Endless)
    }

    fn begin_list_at(&mut self, first: u64, cookie: u64) {
        let request = &mut self.namespaces.get_mut().request;
        request.first = first;
        request.first_cookie = cookie;
        // The agent's own lives as long as it does.
        request.cookie = if cookie == 0 {
            0
        } else {
            self.layout.net.cookie.map_or(0, |cookie| cookie.offset)
        };
    }

    fn namespaces_request(&self) -> NamespacesRequest {
        let net = &self.layout.net;
        let mut request = NamespacesRequest::new_zeroed();
        request.first = self.host.net;
        request.end = self.host.net;
        request.ops_value = self.host.ops;
        request.ops = net.ops.offset;
        request.list = net.list.offset;
        request.tcp_mib = net.tcp_mib.offset;
        request.linux_mib = net.linux_mib.offset;
        request.linux_mibs = self
            .layout
            .mibs
            .get("__LINUX_MIB_MAX")
            .copied()
            .unwrap_or(0);
        request.in_use = net.in_use.offset;
        request.protocols = self.host.protocols;
        request.pieces = self.pieces.net;
        let offsets = &self.host.cpu_offsets;
        request.cpus = u32::try_from(offsets.len()).unwrap_or(0);
        for (to, offset) in request.cpu_offsets.iter_mut().zip(offsets) {
            *to = *offset;
        }
        request
    }

    /// The hash tables of `namespaces`, each once: what holds sockets first comes last.
    pub fn hash_tables(
        &mut self,
        what: Contents,
        namespaces: &[KernelNamespace],
    ) -> Result<Vec<HashTable>, ReadError> {
        let mut tables: Vec<HashTable> = Vec::new();
        let mut seen: Vec<u64> = Vec::new();
        for namespace in namespaces {
            let hashinfo = namespace.hashinfo;
            if seen.contains(&hashinfo) {
                continue;
            }
            seen.push(hashinfo);
            // A namespace of which this fails is being taken apart.
            let Ok(table) = self.hash_table(what, hashinfo) else {
                continue;
            };
            if tables.iter().any(|known| known.buckets == table.buckets) {
                continue;
            }
            let is_shared = hashinfo == self.host.hashinfo;
            tables.push(HashTable {
                owner: (!is_shared).then(|| Owner {
                    net: namespace.net,
                    cookie: namespace.cookie.unwrap_or(0),
                }),
                ..table
            });
        }
        Ok(tables)
    }

    fn hash_table(&mut self, what: Contents, hashinfo: u64) -> Result<HashTable, ReadError> {
        let hash = self.layout.hash;
        let (buckets, size) = match what {
            Contents::Sockets => (hash.sockets, hash.sockets_mask),
            Contents::Listeners => (hash.listeners, hash.listeners_mask),
            Contents::Ports => (hash.bound, hash.bound_size),
        };
        let buckets = self.word(hashinfo, buckets, "a table of sockets")?;
        let size = self.word(hashinfo, size, "a table of sockets")?;
        let size = u32::try_from(size).unwrap_or(0);
        Ok(HashTable {
            what,
            buckets,
            size: match what {
                Contents::Ports => size,
                // It is a mask.
                Contents::Sockets | Contents::Listeners => size.saturating_add(1),
            },
            owner: None,
        })
    }

    /// Reads buckets of `table` from `first` on, for some ten microseconds, and hands over what is
    /// in them.
    pub fn read(
        &mut self,
        table: &HashTable,
        first: u32,
        details: Details,
        mut each: impl FnMut(u32, &Object<'_>),
    ) -> Result<Chunk, ReadError> {
        let end = first
            .saturating_add(self.stride.buckets(table.what))
            .min(table.size);
        let (chunk, took) = self.read_buckets(table, first..end, 0, details, &mut each)?;
        self.stride
            .learn(table.what, chunk.next - first, chunk.objects, took);
        Ok(chunk)
    }

    /// The same for one bucket alone, of any length: from its beginning, or behind a node that an
    /// earlier run ended with.
    pub fn read_one(
        &mut self,
        table: &HashTable,
        bucket: u32,
        after: Option<u64>,
        details: Details,
        mut each: impl FnMut(u32, &Object<'_>),
    ) -> Result<Chunk, ReadError> {
        let after = after.unwrap_or(0);
        // What one takes says nothing of those beside it.
        let (chunk, _) = self.read_buckets(table, bucket..bucket + 1, after, details, &mut each)?;
        Ok(chunk)
    }

    /// Also returns how long the run took.
    fn read_buckets(
        &mut self,
        table: &HashTable,
        buckets: std::ops::Range<u32>,
        after: u64,
        details: Details,
        each: &mut impl FnMut(u32, &Object<'_>),
    ) -> Result<(Chunk, Duration), ReadError> {
        let request = TableRequest {
            after,
            ..self.request(table, buckets.clone(), details)
        };
        let map = self.table.get_mut();
        map.request = request;
        let begun = Instant::now();
        self.read_table.run()?;
        let took = begun.elapsed();
        let map = self.table.get();
        let unread = (map.unread as usize).min(MAX_UNREAD);
        let mut unread = map.unread_buckets[..unread].to_vec();
        unread.sort_unstable();
        let objects = (map.objects.count as usize).min(map.objects.heads.len());
        for number in 0..objects {
            if !unread.is_empty() && unread.binary_search(&map.buckets[number]).is_ok() {
                continue;
            }
            if let Some(object) = Object::of(&map.objects, &map.request.wanted, number) {
                each(map.buckets[number], &object);
            }
        }
        let last = objects.checked_sub(1).filter(|_| map.goes_on != 0);
        let chunk = Chunk {
            goes_on: last.map(|last| map.objects.addresses[last] + u64::from(request.node)),
            next: map.next.min(buckets.end).max(buckets.start),
            unread,
            objects,
            is_there: map.is_gone == 0,
        };
        Ok((chunk, took))
    }

    fn request(
        &self,
        table: &HashTable,
        buckets: std::ops::Range<u32>,
        details: Details,
    ) -> TableRequest {
        let hash = &self.layout.hash;
        let common = &self.layout.common;
        let (stride, chain) = match table.what {
            Contents::Sockets => (hash.socket_stride, hash.socket_chain),
            Contents::Listeners => (hash.listener_stride, hash.listener_chain),
            Contents::Ports => (hash.bound_stride, hash.bound_chain),
        };
        let old_listeners = hash
            .has_listening_hash
            .then_some(self.layout.sock.listen_node);
        let (node, [end_base, end_step]) = match (table.what, old_listeners.flatten()) {
            (Contents::Sockets, _) => (common.node, ENDS_WITH_BUCKET),
            (Contents::Listeners, None) => (common.node, ENDS_WITH_LISTENING_BUCKET),
            (Contents::Listeners, Some(node)) => (node, ENDS_WITH_NULL),
            (Contents::Ports, _) => (self.layout.bind.node, ENDS_WITH_NULL),
        };
        let lanes = self
            .stride
            .lanes(table.what)
            .min(BUCKET_WORDS as u32 * 8 / stride.max(8));
        TableRequest {
            buckets: table.buckets,
            first: buckets.start,
            end: buckets.end,
            stride,
            chain: chain.offset,
            lanes: lanes.clamp(1, MAX_LANES as u32),
            node: node.offset,
            end_base,
            end_step,
            hash: common.hash.offset,
            mask: match table.what {
                Contents::Sockets => table.size - 1,
                Contents::Listeners | Contents::Ports => 0,
            },
            owner: table.owner.map_or(0, |owner| {
                owner.net + u64::from(self.layout.net.list.offset)
            }),
            cookie_at: table.owner.map_or(0, |owner| {
                let cookie = self.layout.net.cookie.map_or(0, |cookie| cookie.offset);
                owner.net + u64::from(cookie)
            }),
            cookie: table.owner.map_or(0, |owner| owner.cookie),
            after: 0,
            wanted: self.pieces.wanted(table.what, details, common.state.offset),
        }
    }

    /// The kernel's clocks now.
    pub fn clock(&mut self) -> Result<ClockSample, ReadError> {
        self.copy(PER_CPU_ARRAY, 8, "a map of its own")?;
        Ok(self.block.get().place.clock)
    }

    /// The set of ports at an address, where the kernel keeps one; none where that is gone.
    #[must_use]
    pub fn port_set(&mut self, address: u64) -> Option<Box<PortSet>> {
        if address == 0 {
            return None;
        }
        self.copy(address, BLOCK_BYTES, "a set of ports").ok()?;
        let mut ports = Box::new([0; PORT_WORDS]);
        ports.copy_from_slice(&self.block.get().words[..PORT_WORDS]);
        Some(ports)
    }

    /// The node of a cgroup in the tree of all, and its number. `None` where that is gone.
    pub(super) fn cgroup_node(&mut self, cgroup: u64) -> Option<(u64, u64)> {
        let layout = self.layout.cgroup;
        let node = self.word(cgroup, layout.node, "a cgroup").ok()?;
        let id = self.word(node, layout.id, "a cgroup").ok()?;
        Some((node, id))
    }

    /// A number in the struct at an address.
    pub(super) fn word(
        &mut self,
        base: u64,
        field: Field,
        what: &'static str,
    ) -> Result<u64, ReadError> {
        let size = (field.size as usize).min(8);
        self.copy(base.wrapping_add(field.offset.into()), size, what)?;
        let bytes = self.block.get().words[0].as_bytes();
        let mut number = [0; 8];
        number[..size].copy_from_slice(&bytes[..size]);
        Ok(u64::from_le_bytes(number))
    }

    pub(super) fn copy(
        &mut self,
        address: u64,
        bytes: usize,
        what: &'static str,
    ) -> Result<(), ReadError> {
        let block = self.block.get_mut();
        block.address = address;
        block.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.read_block.run()?;
        if self.block.get().is_read != 0 {
            Ok(())
        } else {
            Err(ReadError::Memory(what))
        }
    }
}
