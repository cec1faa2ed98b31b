//! Which filters are left over from an agent that is gone.
//!
//! A filter of TC stays when its maker dies. Each agent gives its filters a number, and for as long
//! as it lives holds a socket by that number's name: abstract, so that it goes with the process,
//! and of the same network namespace as the interfaces.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

/// A number that no other agent of this network namespace has.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) number: u32,
    _held: UnixListener,
}

impl Claim {
    /// Claims one, `first` or the next that is free.
    pub(super) fn new(first: u32) -> io::Result<Self> {
        // The kernel takes a filter's number as one with a sign here and there.
        let numbers = (0..1_000).map(|more| first.wrapping_add(more) & 0x7fff_ffff);
        for number in numbers.filter(|number| *number != 0) {
            match hold(number) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                held => {
                    return Ok(Self {
                        number,
                        _held: held?,
                    });
                }
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Whether the agent that claimed `number` is gone.
    pub(super) fn is_abandoned(&self, number: u32) -> bool {
        number != self.number && hold(number).is_ok()
    }
}

fn hold(number: u32) -> io::Result<UnixListener> {
    let name = format!("tcpstate-segments-{number}");
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_held_until_its_holder_is_gone() {
        let first = std::process::id();
        let one = Claim::new(first).unwrap();
        let two = Claim::new(first).unwrap();
        assert_ne!(one.number, two.number);
        assert!(!two.is_abandoned(one.number));
        assert!(!two.is_abandoned(two.number));
        let number = one.number;
        drop(one);
        assert!(two.is_abandoned(number));
    }
}
