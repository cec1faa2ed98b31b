//! The sockets that are listened on.

use std::{
    io,
    net::{SocketAddr, TcpListener as Blocking},
    os::fd::AsFd,
};

use listenfd::ListenFd;
use rustix::net::sockopt;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};

/// What the kernel keeps for a client that does not read, and of one that sends what nobody reads:
/// it takes twice as much for its own account.
const SEND_BUFFER: usize = 64 * 1024;
const RECEIVE_BUFFER: usize = 16 * 1024;

/// Connections that wait to be accepted: whoever finds no room tries again a second later.
const BACKLOG: u32 = 4096;

/// Nothing to listen on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// An address that cannot be had.
    #[error("cannot listen on {address}: {error}{remedy}", remedy = remedy(error))]
    Address {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Nothing was handed over.
    #[error(
        "no socket activation file descriptors found (--web.systemd-socket is for a service that a \
         systemd socket unit starts)"
    )]
    NoneActivated,
    /// A socket that was handed over and cannot be used.
    #[error("cannot use a socket that was handed over: {0}")]
    Activated(io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (is another agent running? choose another port with --web.listen-address)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface has this address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

/// Binds every address, or none. To be called within the async runtime.
pub fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let listener =
            bind_one(address).map_err(|error| ListenError::Address { address, error })?;
        bound_buffers(&listener);
        listeners.push(listener);
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // What is left of connections of an agent before is no reason not to start.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The sockets that systemd listens on for the agent. Descriptors of other kinds are left alone.
pub fn activated() -> Result<Vec<TcpListener>, ListenError> {
    let mut handed = ListenFd::from_env();
    let listeners: Vec<Blocking> = (0..handed.len())
        .filter_map(|place| handed.take_tcp_listener(place).ok().flatten())
        .collect();
    if listeners.is_empty() {
        return Err(ListenError::NoneActivated);
    }
    let listeners = listeners.into_iter().map(|listener| {
        listener.set_nonblocking(true)?;
        bound_buffers(&listener);
        TcpListener::from_std(listener)
    });
    let listeners: io::Result<_> = listeners.collect();
    listeners.map_err(ListenError::Activated)
}

/// The connections of a listener begin with its buffers. Where that is refused, the kernel's own
/// limits hold.
fn bound_buffers(listener: &impl AsFd) {
    let _ = sockopt::set_socket_send_buffer_size(listener, SEND_BUFFER);
    let _ = sockopt::set_socket_recv_buffer_size(listener, RECEIVE_BUFFER);
}
