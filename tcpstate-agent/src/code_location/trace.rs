//! The addresses in what the kernel side has seen of a socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tcpstate_common::{Family, SocketTrace};

/// Its own address and the peer's; `None` where it has none yet.
#[must_use]
pub fn addresses(trace: &SocketTrace) -> Option<(SocketAddr, SocketAddr)> {
    let family = Family::from_kernel(trace.family)?;
    let address = |bytes: [u8; 16], port| {
        let address: IpAddr = match family {
            Family::Ipv4 => {
                let [a, b, c, d, ..] = bytes;
                Ipv4Addr::new(a, b, c, d).into()
            }
            Family::Ipv6 => Ipv6Addr::from(bytes).to_canonical(),
        };
        SocketAddr::new(address, port)
    };
    Some((
        address(trace.local_address, trace.local_port),
        address(trace.remote_address, trace.remote_port),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_family() {
        let mut trace = SocketTrace {
            family: 2,
            local_port: 80,
            remote_port: 4000,
            ..SocketTrace::default()
        };
        trace.local_address[..4].copy_from_slice(&[127, 0, 0, 1]);
        trace.remote_address[..4].copy_from_slice(&[10, 0, 0, 2]);
        let expected = (
            "127.0.0.1:80".parse().unwrap(),
            "10.0.0.2:4000".parse().unwrap(),
        );
        assert_eq!(addresses(&trace), Some(expected));
        trace.family = 10;
        trace.local_address = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        let (local, _) = addresses(&trace).unwrap();
        assert_eq!(local, "127.0.0.1:80".parse().unwrap());
        trace.family = 0;
        assert_eq!(addresses(&trace), None);
    }
}
