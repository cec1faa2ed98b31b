//! Sockets of network namespaces that no thread of the process is in: those that it has entered to
//! make a socket and left again, and those that others have handed over.
//!
//! `/proc` has a table for each namespace, and a way to it only where some process is in there. The
//! kernel's own list of descriptors knows no such borders.

use std::net::SocketAddr;

use rustc_hash::FxHashSet;
use tcpstate_common::RecordMask;
use thiserror::Error;

use super::tcp_table::TcpTable;
use crate::{
    collect::close_wait::Cause,
    decode::{Owner, Socket},
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

/// The kernel's list of processes and their descriptors.
pub struct KernelDescriptors(OwnersReader);

impl KernelDescriptors {
    /// Loads what reads it. Nothing is attached.
    pub fn load() -> Result<Self, ElsewhereError> {
        let options = LoadOptions {
            programs: &[ProgramId::Owners],
            record_mask: RecordMask::ABNORMAL_ENDS,
            event_ring_bytes: 0,
            every_owner: false,
            kernel_log: KernelLogLevel::Off,
        };
        let loaded = load(&Facts::gather(), &options)?;
        if let Some(owners) = loaded.owners {
            return Ok(Self(owners));
        }
        let refused = loaded.programs.into_iter();
        let mut refusals = refused.filter_map(|program| program.outcome.err());
        Err(refusals
            .next()
            .map_or(ElsewhereError::NotLoaded, ElsewhereError::Refused))
    }

    /// What one process holds in namespaces that `table` does not cover.
    pub fn of(&mut self, pid: u32, table: &TcpTable) -> Result<Elsewhere, ElsewhereError> {
        let mut found = Elsewhere::default();
        // It may have several descriptors of one.
        let mut seen = FxHashSet::default();
        self.0.walk(|owner| {
            if owner.process.tgid != pid {
                return;
            }
            if let Socket::Listener(listener) = &owner.socket
                && !table.covers(listener.namespace)
            {
                found.listens_on.insert((listener.namespace, listener.port));
            }
            if let Some(stuck) = stuck(&owner)
                && !table.covers(stuck.namespace)
                && seen.insert(stuck.socket)
            {
                found.stuck.push(stuck);
            }
        })?;
        Ok(found)
    }
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
