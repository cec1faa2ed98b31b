//! From bytes of the kernel side to values.
//!
//! Pure, and total: whatever the bytes, the answer is a value or a [`DecodeError`]. Nothing here
//! knows the BPF library.

pub mod btf;
mod held;
mod kernel_socket;
mod namespace;
pub mod object;
mod socket;
mod task;
mod transition;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcpstate_common::{Family, TcpState};
use thiserror::Error;

pub use held::{HeldLayout, HeldTimes, Queued, References};
pub use kernel_socket::KernelSocket;
pub use namespace::{KernelNamespace, Limits, wanted as wanted_of_namespace};
pub use socket::{CloseWaitSocket, Listener, MptcpSocket, Owner, Socket};
pub use task::{cgroup_path, descriptors, process_id, process_name, run_state};
pub use transition::{Caller, Transition};

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not the size of a record.
    #[error("a record of {0} bytes")]
    Length(usize),
    /// A number that is no TCP state, or none that such a record can have.
    #[error("{0} is no TCP state")]
    State(u8),
    /// A number that is neither `AF_INET` nor `AF_INET6`.
    #[error("{0} is no address family of TCP")]
    Family(u8),
    /// A number that is no direction.
    #[error("{0} is no direction")]
    Direction(u8),
    /// An errno that cannot be one.
    #[error("{0} is no errno")]
    Error(i32),
    /// A number that is no way in which a connection ends.
    #[error("{0} is no reason of an end")]
    Reason(u8),
}

fn state(raw: u8) -> Result<TcpState, DecodeError> {
    TcpState::from_kernel(raw).ok_or(DecodeError::State(raw))
}

pub(crate) fn family(raw: u8) -> Result<Family, DecodeError> {
    Family::from_kernel(raw.into()).ok_or(DecodeError::Family(raw))
}

/// An address as it goes over the wire; IPv4 has the first four bytes.
#[must_use]
pub fn address(family: Family, bytes: [u8; 16]) -> IpAddr {
    match family {
        Family::Ipv4 => {
            let [a, b, c, d, ..] = bytes;
            Ipv4Addr::new(a, b, c, d).into()
        }
        Family::Ipv6 => Ipv6Addr::from(bytes).into(),
    }
}
