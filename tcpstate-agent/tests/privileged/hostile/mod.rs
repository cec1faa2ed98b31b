//! What attacks the agent, and what happens to it: it shows no false zero, does not hang, and takes
//! no more than its share.

mod connections;
mod hidden;
mod listeners;
mod log;
mod memory;
mod missing_files;
mod namespaces;
mod refused_calls;
mod series;
mod signals;
mod stuck;
mod stuck_mount;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::harness::Netns;

/// Has this process have as many descriptors as it may.
fn raise_descriptors() {
    tcpstate_agent::host::descriptors::raise_limit();
}

/// Listens on each of these ports of one address, in a namespace.
fn listen_on(
    namespace: &Netns,
    address: Ipv4Addr,
    ports: impl Iterator<Item = u16> + Send,
) -> Vec<TcpListener> {
    namespace.enter(|| {
        let listeners = ports.map(|port| {
            TcpListener::bind(SocketAddr::from((address, port)))
                .unwrap_or_else(|error| panic!("port {port}: {error}"))
        });
        listeners.collect()
    })
}
