//! Sockets of network namespaces that no thread of the process is in: those that it has entered to
//! make a socket and left again, and those that others have handed over.
//!
//! `/proc` has a table for each namespace, and a way to it only where some process is in there. The
//! kernel's own list of descriptors knows no such borders.

use std::net::SocketAddr;

use rustc_hash::{FxHashMap, FxHashSet};
use tcpstate_common::RecordMask;
use thiserror::Error;

use super::tcp_table::TcpTable;
use crate::{
    collect::close_wait::Cause,
    decode::{CloseWaitSocket, Listener, MptcpSocket, Owner, Socket},
    kernel::{
        KernelLogLevel, LoadError, LoadOptions, OwnersError, OwnersReader,
        facts::Facts,
        load,
        plan::{Obstacle, ProgramId},
    },
};

/// What a process holds in those namespaces.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// Its sockets in CLOSE_WAIT.
    pub stuck: Vec<SocketsElsewhere>,
    /// Namespaces and ports that it listens on.
    pub listens_on: FxHashSet<(u32, u16)>,
}

/// Sockets in CLOSE_WAIT of one of those namespaces: one that the process holds, or all that wait at
/// a listener of it to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketsElsewhere {
    /// How many.
    pub count: u64,
    /// The address of its `struct sock`, or of the listener's.
    pub socket: u64,
    /// Inode number of the namespace.
    pub namespace: u32,
    /// Its own port.
    pub local_port: u16,
    /// The peer, where it is one.
    pub remote: Option<SocketAddr>,
    /// Why it stays.
    pub cause: Cause,
}

/// Why they cannot be told.
#[derive(Debug, Error)]
pub enum ElsewhereError {
    /// Nothing may be loaded for it.
    #[error("a watch tells: --seconds")]
    NotAllowed,
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This kernel or this permission does not allow it.
    #[error("{} ({})", .0.cause, .0.remedy)]
    Refused(Obstacle),
    /// Nothing was loaded, and nothing was refused.
    #[error("the programs were not loaded")]
    NotLoaded,
    /// The walk failed.
    #[error(transparent)]
    Walk(#[from] OwnersError),
}

/// The kernel's list of processes and their descriptors. What reads it is loaded when it is first
/// needed, and attached to nothing.
pub struct KernelDescriptors {
    may_load: bool,
    reader: Option<OwnersReader>,
}

impl KernelDescriptors {
    /// `may_load`: whether programs may be loaded into the kernel for it.
    #[must_use]
    pub const fn new(may_load: bool) -> Self {
        Self {
            may_load,
            reader: None,
        }
    }

    /// What each of the `wanted` processes holds in namespaces that `table` does not cover.
    pub fn held(
        &mut self,
        table: &TcpTable,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<FxHashMap<u32, Elsewhere>, ElsewhereError> {
        let mut found: FxHashMap<u32, Elsewhere> = FxHashMap::default();
        // A process may have several descriptors of one.
        let mut seen = FxHashSet::default();
        self.walk(|owner| {
            let process = owner.process.tgid;
            if !wanted(process) {
                return;
            }
            if let Socket::Listener(listener) = &owner.socket
                && !table.covers(listener.namespace)
            {
                let place = (listener.namespace, listener.port);
                found.entry(process).or_default().listens_on.insert(place);
            }
            if let Some(stuck) = stuck(&owner)
                && !table.covers(stuck.namespace)
                && seen.insert((process, stuck.socket))
            {
                found.entry(process).or_default().stuck.push(stuck);
            }
        })?;
        Ok(found)
    }

    /// The processes that listen on a port in such a namespace, have it as their own port of an
    /// established connection, or at either end of one in CLOSE_WAIT.
    pub fn with_port(
        &mut self,
        port: u16,
        table: &TcpTable,
    ) -> Result<FxHashSet<u32>, ElsewhereError> {
        let mut found = FxHashSet::default();
        self.walk(|owner| {
            if ports(&owner).any(|(namespace, of_it)| of_it == port && !table.covers(namespace)) {
                found.insert(owner.process.tgid);
            }
        })?;
        Ok(found)
    }

    fn walk(&mut self, each: impl FnMut(Owner)) -> Result<(), ElsewhereError> {
        if !self.may_load {
            return Err(ElsewhereError::NotAllowed);
        }
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => load_reader()?,
        };
        self.reader.insert(reader).walk(each)?;
        Ok(())
    }
}

fn load_reader() -> Result<OwnersReader, ElsewhereError> {
    let options = LoadOptions {
        programs: &[ProgramId::Owners],
        record_mask: RecordMask::ABNORMAL_ENDS,
        event_ring_bytes: 0,
        every_owner: false,
        kernel_log: KernelLogLevel::Off,
    };
    let loaded = load(&Facts::gather(), &options)?;
    if let Some(owners) = loaded.owners {
        return Ok(owners);
    }
    let refused = loaded.programs.into_iter();
    let mut refusals = refused.filter_map(|program| program.outcome.err());
    Err(refusals
        .next()
        .map_or(ElsewhereError::NotLoaded, ElsewhereError::Refused))
}

/// The ports of a socket, with the namespace.
fn ports(owner: &Owner) -> impl Iterator<Item = (u32, u16)> {
    let ends = match owner.socket {
        Socket::Listener(Listener {
            namespace, port, ..
        }) => [Some((namespace, port)), None],
        Socket::CloseWait(CloseWaitSocket {
            namespace,
            local_port,
            remote,
            ..
        })
        | Socket::Mptcp(MptcpSocket {
            namespace,
            local_port,
            remote,
            ..
        }) => [local_port, remote.port()].map(|port| Some((namespace, port))),
        Socket::Other(_) => [owner.established, None],
    };
    ends.into_iter().flatten()
}

fn stuck(owner: &Owner) -> Option<SocketsElsewhere> {
    match &owner.socket {
        Socket::CloseWait(socket) => Some(SocketsElsewhere {
            count: 1,
            socket: socket.socket,
            namespace: socket.namespace,
            local_port: socket.local_port,
            remote: Some(socket.remote),
            cause: Cause::of(socket),
        }),
        Socket::Listener(listener) if owner.unaccepted > 0 => Some(SocketsElsewhere {
            count: owner.unaccepted.into(),
            socket: listener.socket,
            namespace: listener.namespace,
            local_port: listener.port,
            remote: None,
            cause: Cause::Unaccepted,
        }),
        Socket::Listener(_) | Socket::Mptcp(_) | Socket::Other(_) => None,
    }
}
