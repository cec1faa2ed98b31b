//! What stays the same for as long as the agent runs: where its own namespace is, where the memory
//! of each CPU is, and how the kernel numbers TCP.

use std::os::fd::{AsRawFd as _, OwnedFd};

use aya::util::nr_cpus;
use rustix::net::{AddressFamily, SocketType, socket};
use tcpstate_common::pass::{MAX_CPUS, PER_CPU_ARRAY, PROTOCOLS};

use super::{
    super::layout::Field,
    tables::{KernelTables, OpenError, ReadError},
};

/// What was found out.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// The agent's own `struct net`.
    pub(super) net: u64,
    /// What `ns.ops` of every network namespace holds.
    pub(super) ops: u64,
    /// The `struct inet_hashinfo` of those that have none of their own.
    pub(super) hashinfo: u64,
    /// What to add to a per-CPU pointer, by CPU.
    pub(super) cpu_offsets: Vec<u64>,
    /// Where in a `struct prot_inuse` TCP's sockets are counted, over IPv4 and over IPv6; 0 for one
    /// that the kernel does not have.
    pub(super) protocols: [u32; PROTOCOLS],
}

impl Host {
    pub(super) fn find(tables: &mut KernelTables) -> Result<Self, OpenError> {
        let task = tables.layout.task;
        // Any copy will do for the place.
        tables.copy(PER_CPU_ARRAY, 8, "a map of its own")?;
        let current = tables.block.get().place.task;
        let namespaces = tables.word(current, task.namespaces, "the current task")?;
        let net = tables.word(namespaces, task.net, "the namespaces of the current task")?;
        let ops = tables.word(net, tables.layout.net.ops, "a network namespace")?;
        let hashinfo = tables.word(net, tables.layout.net.hashinfo, "a network namespace")?;
        let mut protocols = [0; PROTOCOLS];
        for (place, family) in [AddressFamily::INET, AddressFamily::INET6]
            .into_iter()
            .enumerate()
        {
            match socket(family, SocketType::STREAM, None) {
                Ok(socket) => protocols[place] = in_use_place(tables, current, &socket)?,
                // A kernel without IPv6.
                Err(_) if place > 0 => {}
                Err(error) => return Err(OpenError::Socket(error.into())),
            }
        }
        Ok(Self {
            net,
            ops,
            hashinfo,
            cpu_offsets: cpu_offsets(tables)?,
            protocols,
        })
    }
}

/// Where sockets of the kind of `socket` are counted in a `struct prot_inuse`.
fn in_use_place(
    tables: &mut KernelTables,
    current: u64,
    socket: &OwnedFd,
) -> Result<u32, OpenError> {
    const WHAT: &str = "a socket of its own";
    let task = tables.layout.task;
    let files = tables.word(current, task.files, WHAT)?;
    let table = tables.word(files, task.table, WHAT)?;
    let descriptors = tables.word(table, task.descriptors, WHAT)?;
    let number = u64::try_from(socket.as_raw_fd()).unwrap_or(0);
    let pointer = Field { offset: 0, size: 8 };
    let file = tables.word(descriptors + number * 8, pointer, WHAT)?;
    let socket = tables.word(file, task.private, WHAT)?;
    let sock = tables.word(socket, task.sock, WHAT)?;
    let protocol = tables.word(sock, tables.layout.common.protocol, WHAT)?;
    let index = tables.word(protocol, task.in_use_index, WHAT)?;
    let values = task.in_use_values;
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    if index >= values.size / 4 {
        return Err(ReadError::Memory("the number of a protocol").into());
    }
    Ok(values.offset + index * 4)
}

/// Where the memory of each CPU is that is online: an element of a per-CPU map lies so far from the
/// map's own per-CPU pointer. One that was never online has counted nothing.
fn cpu_offsets(tables: &mut KernelTables) -> Result<Vec<u64>, OpenError> {
    let place = tables.layout.task.per_cpu.offset as usize;
    tables.copy(PER_CPU_ARRAY, place + 8, "a map of its own")?;
    let pointer = tables.block.get().words[place / 8];
    let cpus = nr_cpus().map_err(|(_, error)| OpenError::Cpus(error))?;
    let mut offsets = Vec::new();
    for cpu in (0_u32..).take(cpus.min(MAX_CPUS)) {
        if tables.read_block.run_on(cpu).is_ok() {
            let element = tables.block.get().place.per_cpu_element;
            offsets.push(element.wrapping_sub(pointer));
        }
    }
    if offsets.is_empty() {
        return Err(ReadError::Memory("the memory of a CPU").into());
    }
    Ok(offsets)
}
