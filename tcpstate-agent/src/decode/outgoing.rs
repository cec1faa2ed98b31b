//! What a pass says of where outgoing connections go.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tcpstate_common::Destination;

use super::DecodeError;

/// Outgoing connections from one address to one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where they come from.
    pub local: IpAddr,
    /// Where they go.
    pub remote: SocketAddr,
    /// How many hold a port that the kernel has chosen, in any state.
    pub held: u32,
    /// How many are in TIME_WAIT.
    pub time_wait: u32,
    /// How many of both kinds use timestamps.
    pub reusable: u32,
}

impl TryFrom<Destination> for Outgoing {
    type Error = DecodeError;

    fn try_from(found: Destination) -> Result<Self, DecodeError> {
        let Destination {
            local,
            remote,
            remote_port,
            held,
            time_wait,
            reusable,
        } = found;
        let port = u16::try_from(remote_port).map_err(|_| DecodeError::Port(remote_port))?;
        Ok(Self {
            local: address(local),
            remote: SocketAddr::new(address(remote), port),
            held,
            time_wait,
            reusable,
        })
    }
}

/// One that IPv6 writes an IPv4 address as is that.
fn address([upper, lower]: [u64; 2]) -> IpAddr {
    let mut bytes = [0; 16];
    let (first, last) = bytes.split_at_mut(8);
    first.copy_from_slice(&upper.to_ne_bytes());
    last.copy_from_slice(&lower.to_ne_bytes());
    Ipv6Addr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcpstate_common::Way;

    use super::*;

    fn ipv6(address: &str) -> [u64; 2] {
        let octets = address.parse::<Ipv6Addr>().unwrap().octets();
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
        [word(&octets[..8]), word(&octets[8..])]
    }

    #[test]
    fn addresses_of_both_families_are_as_people_write_them() {
        let found = Destination {
            held: 3,
            time_wait: 2,
            reusable: 1,
            ..Destination::new(Way {
                local: Way::ipv4(u32::from_ne_bytes([10, 0, 0, 1])),
                remote: ipv6("fd00::2"),
                remote_port: 443,
            })
        };
        let decoded = Outgoing::try_from(found).unwrap();
        assert_eq!(decoded.local.to_string(), "10.0.0.1");
        assert_eq!(decoded.remote.to_string(), "[fd00::2]:443");
        assert_eq!(
            (decoded.held, decoded.time_wait, decoded.reusable),
            (3, 2, 1)
        );
    }

    proptest! {
        #[test]
        fn any_numbers_are_decoded_or_refused(
            local: [u64; 2], remote: [u64; 2], remote_port: u32, held: u32
        ) {
            let found = Destination { held, ..Destination::new(Way { local, remote, remote_port }) };
            match Outgoing::try_from(found) {
                Ok(decoded) => prop_assert_eq!(u32::from(decoded.remote.port()), remote_port),
                Err(error) => {
                    prop_assert_eq!(error, DecodeError::Port(remote_port));
                    prop_assert!(remote_port > 65_535);
                }
            }
        }
    }
}
