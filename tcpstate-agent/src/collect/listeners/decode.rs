//! What the kernel side says of a listening socket.

use std::net::SocketAddr;

use tcpstate_common::{Family, ListenAddress, TcpState};

use crate::{
    decode::{KernelSocket, address, object::Object},
    kernel::layout::Layout,
};

/// A listening socket and its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Tells the socket from all others that live at the same time.
    pub socket: u64,
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// Its family: a dual-stack socket is [`Family::Ipv6`].
    pub family: Family,
    /// What it listens on.
    pub address: SocketAddr,
    /// The kernel has chosen its port: whoever made it asked for any.
    pub is_any_port: bool,
    /// Connections that wait to be accepted.
    pub accept_queue: u32,
    /// How many may wait; the kernel lets in one more.
    pub accept_limit: u32,
    /// Half-open connections.
    pub half_open: u32,
    /// Segments and connections that it has dropped, `sk_drops`; wraps around.
    pub drops: u32,
    /// SYN-ACKs that were sent again since the socket is known.
    pub synack_retransmits: u64,
}

impl ListeningSocket {
    /// What its connections are counted by.
    #[must_use]
    pub fn listen_address(&self) -> ListenAddress {
        let address = match self.address {
            SocketAddr::V4(address) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&address.ip().octets());
                bytes
            }
            SocketAddr::V6(address) => address.ip().octets(),
        };
        ListenAddress {
            namespace: self.namespace,
            port: self.address.port(),
            family: self.family.to_kernel().into(),
            address,
        }
    }
}

/// What there is to say of a listening socket, in the namespace with this inode number. `None` where
/// it listens no more.
#[must_use]
pub fn listener_of(
    socket: &KernelSocket,
    object: &Object<'_>,
    layout: &Layout,
    namespace: u32,
) -> Option<ListeningSocket> {
    if socket.state != TcpState::Listen {
        return None;
    }
    let sock = &layout.sock;
    let local = address(socket.family, socket.local_address(object, &layout.common));
    Some(ListeningSocket {
        socket: socket.socket,
        namespace,
        family: socket.family,
        address: SocketAddr::new(local, socket.local_port),
        is_any_port: sock
            .port_asked_for
            .is_some_and(|bit| object.number(bit.byte).is_some() && !object.is_set(bit)),
        accept_queue: object.number32(sock.accept_queue),
        accept_limit: object.number32(sock.accept_limit),
        half_open: object.number32(sock.half_open),
        drops: object.number32(sock.drops),
        synack_retransmits: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_socket_is_as_it_goes_over_the_wire() {
        let socket = ListeningSocket {
            socket: 1,
            namespace: 2,
            family: Family::Ipv4,
            address: "127.0.0.1:80".parse().unwrap(),
            is_any_port: false,
            accept_queue: 129,
            accept_limit: 128,
            half_open: 0,
            drops: 0,
            synack_retransmits: 0,
        };
        let address = socket.listen_address();
        assert_eq!(address.address[..5], [127, 0, 0, 1, 0]);
        assert_eq!((address.namespace, address.family), (2, 2));
    }
}
