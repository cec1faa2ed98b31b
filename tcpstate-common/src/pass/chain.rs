//! `read_chain`: the connections that wait in the accept queue of a listener.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sockets that one run hands over at most; a power of two.
pub const MAX_CHAINED: usize = 512;
/// States that are counted apart.
pub const CHAIN_STATES: usize = 16;

/// Which listener, and where to go on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct ChainRequest {
    /// Address of the `struct sock` of the listener.
    pub listener: u64,
    /// Address of its network namespace.
    pub net: u64,
    /// The `struct request_sock` to go on with, 0 for the first of the queue.
    pub request: u64,
    /// The socket that it had then.
    pub request_sock: u64,
    /// For how long to run, in nanoseconds.
    pub run_ns: u64,
    /// Its port.
    pub port: u32,
    /// Its state: that of a listener.
    pub state: u32,
    /// Which states are handed over, a bit each.
    pub wanted: u32,
    /// Where in a `struct sock` the state is.
    pub sock_state: u32,
    /// The port.
    pub sock_port: u32,
    /// The network namespace.
    pub sock_net: u32,
    /// The first of the queue, `inet_connection_sock.icsk_accept_queue.rskq_accept_head`.
    pub sock_queue: u32,
    /// Where in a `struct request_sock` its listener is, `sock_common.skc_listener`.
    pub request_listener: u32,
    /// The socket, `request_sock.sk`.
    pub request_child: u32,
    /// The next one, `request_sock.dl_next`.
    pub request_next: u32,
}

/// What passes between the two sides.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Chain {
    /// What to do.
    pub request: ChainRequest,
    /// A [`ChainEnd`].
    pub end: u32,
    /// How many elements of `sockets` there are.
    pub count: u32,
    /// How many there are in each state.
    pub by_state: [u32; CHAIN_STATES],
    /// For the program's own use: when the run began.
    pub begun_ns: u64,
    /// Addresses of the sockets in wanted states.
    pub sockets: [u64; MAX_CHAINED],
}

/// How a run ended.
pub struct ChainEnd;

impl ChainEnd {
    /// There are more: go on with `request.request`.
    pub const MORE: u32 = 0;
    /// That was the last.
    pub const LAST: u32 = 1;
    /// The listener is not there any more.
    pub const GONE: u32 = 2;
    /// What was at hand has been accepted meanwhile: begin anew.
    pub const MOVED: u32 = 3;
}
