//! What the programs on network interfaces must find in a packet.
//!
//! The definition, in the plainest words: no program is made of it, and the tests hold the programs
//! in the kernel against it, packet by packet.

use tcpstate_common::{MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, Skipped};

/// How a packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// With an Ethernet header.
    Ethernet,
    /// With the IP header, as on a tunnel.
    RawIp,
}

const ETHERNET_HEADER: usize = 14;
/// 802.1Q, 802.1ad, and what was used before that.
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
/// Bytes of a TCP header that say which flags it has.
const TCP_FLAGS: usize = 14;

/// The flags of the TCP segment in `packet`, as in byte 13 of its header, or why there are none.
pub fn tcp_flags(packet: &[u8], framing: Framing) -> Result<u8, Skipped> {
    let (version, datagram) = match framing {
        Framing::Ethernet => without_ethernet(packet)?,
        Framing::RawIp => (packet.first().ok_or(Skipped::Unparsed)? >> 4, packet),
    };
    let segment = match version {
        4 => in_ipv4(datagram)?,
        6 => in_ipv6(datagram)?,
        _ => return Err(Skipped::Unparsed),
    };
    segment.get(13).copied().ok_or(Skipped::Unparsed)
}

/// The version of IP that the frame is said to have in it, and that.
fn without_ethernet(frame: &[u8]) -> Result<(u8, &[u8]), Skipped> {
    let mut length = ETHERNET_HEADER;
    for _ in 0..=MAX_VLAN_TAGS {
        let (header, datagram) = frame.split_at_checked(length).ok_or(Skipped::Unparsed)?;
        match big_endian(header, length - 2) {
            IPV4 => return Ok((4, datagram)),
            IPV6 => return Ok((6, datagram)),
            tag if VLAN.contains(&tag) => length += 4,
            _ => return Err(Skipped::NonTcp),
        }
    }
    Err(Skipped::Unparsed)
}

fn in_ipv4(datagram: &[u8]) -> Result<&[u8], Skipped> {
    let header = datagram.get(..20).ok_or(Skipped::Unparsed)?;
    let header_length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_length < 20 {
        return Err(Skipped::Unparsed);
    }
    if header[9] != TCP {
        return Err(Skipped::NonTcp);
    }
    let fragment_offset = big_endian(header, 6) & 0x1fff;
    if fragment_offset != 0 {
        return Err(Skipped::Fragment);
    }
    has_room(big_endian(header, 2), header_length)?;
    datagram.get(header_length..).ok_or(Skipped::Unparsed)
}

fn in_ipv6(datagram: &[u8]) -> Result<&[u8], Skipped> {
    let (header, payload) = datagram.split_at_checked(40).ok_or(Skipped::Unparsed)?;
    if header[0] >> 4 != 6 {
        return Err(Skipped::Unparsed);
    }
    let mut kind = header[6];
    // Of all extension headers so far. Where one ends behind the packet's end, what is said to
    // follow it is known all the same.
    let mut length = 0;
    for number in 0..=MAX_EXTENSION_HEADERS {
        if kind == TCP {
            has_room(big_endian(header, 4), length)?;
            return payload.get(length..).ok_or(Skipped::Unparsed);
        }
        if !is_extension(kind) {
            return Err(Skipped::NonTcp);
        }
        if number == MAX_EXTENSION_HEADERS {
            break;
        }
        let extension = payload.get(length..length + 8).ok_or(Skipped::Unparsed)?;
        let next = extension[0];
        let is_later_fragment = kind == FRAGMENT && big_endian(extension, 2) >> 3 != 0;
        if is_later_fragment && (next == TCP || is_extension(next)) {
            return Err(Skipped::Fragment);
        }
        if is_later_fragment {
            return Err(Skipped::NonTcp);
        }
        length += match kind {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        kind = next;
    }
    Err(Skipped::Unparsed)
}

/// Whether the length that the IP header gives is enough for what comes before TCP's flags, and
/// those: Ethernet fills up short frames with bytes that mean nothing. 0 stands for more than
/// 65,535, which the kernel makes of many segments.
fn has_room(length: u16, before: usize) -> Result<(), Skipped> {
    if length != 0 && usize::from(length) < before + TCP_FLAGS {
        return Err(Skipped::Unparsed);
    }
    Ok(())
}

/// Those that say how long they are: hop-by-hop options, routing, fragment, authentication,
/// destination options, mobility, HIP, shim6.
const fn is_extension(kind: u8) -> bool {
    matches!(
        kind,
        0 | 43 | FRAGMENT | AUTHENTICATION | 60 | 135 | 139 | 140
    )
}

fn big_endian(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLAGS: u8 = 0x12;

    fn tcp() -> Vec<u8> {
        let mut header = vec![0; 20];
        header[12] = 5 << 4;
        header[13] = FLAGS;
        header
    }

    fn ipv4(protocol: u8, fragment: u16, options: usize, payload: &[u8]) -> Vec<u8> {
        let header_length = 20 + options;
        let mut packet = vec![0; header_length];
        packet[0] = 0x40 | u8::try_from(header_length / 4).unwrap();
        let total = u16::try_from(header_length + payload.len()).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet.extend(payload);
        packet
    }

    /// With `extensions`, each its kind and its bytes but for the first, before a `last` header.
    fn ipv6(extensions: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        let kinds: Vec<u8> = extensions
            .iter()
            .map(|(kind, _)| *kind)
            .chain([last])
            .collect();
        packet[6] = kinds[0];
        for ((_, bytes), next) in extensions.iter().zip(&kinds[1..]) {
            packet.push(*next);
            packet.extend(bytes);
        }
        packet.extend(payload);
        let length = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet
    }

    fn frame(kinds: &[u16], datagram: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for kind in kinds {
            if frame.len() > 12 {
                frame.extend([0, 7]);
            }
            frame.extend(kind.to_be_bytes());
        }
        frame.extend(datagram);
        frame
    }

    fn raw(packet: &[u8]) -> Result<u8, Skipped> {
        tcp_flags(packet, Framing::RawIp)
    }

    #[test]
    fn flags_are_found_behind_every_header_that_can_be_before_them() {
        let v4 = ipv4(6, 0, 0, &tcp());
        assert_eq!(raw(&v4), Ok(FLAGS));
        assert_eq!(raw(&ipv4(6, 0, 40, &tcp())), Ok(FLAGS));
        // Don't fragment; the first of several fragments.
        assert_eq!(raw(&ipv4(6, 0x4000, 0, &tcp())), Ok(FLAGS));
        assert_eq!(raw(&ipv4(6, 0x2000, 0, &tcp())), Ok(FLAGS));
        assert_eq!(raw(&ipv6(&[], 6, &tcp())), Ok(FLAGS));
        for (kind, bytes) in [
            (0, vec![0; 7]),
            (43, [vec![2], vec![0; 22]].concat()),
            (60, [vec![255], vec![0; 2046]].concat()),
            (51, [vec![4], vec![0; 22]].concat()),
            (44, vec![0; 7]),
        ] {
            let packet = ipv6(&[(kind, bytes)], 6, &tcp());
            assert_eq!(raw(&packet), Ok(FLAGS), "{kind}");
        }
        for kinds in [
            &[0x0800][..],
            &[0x8100, 0x0800],
            &[0x88a8, 0x8100, 0x0800],
            &[0x9100, 0x0800],
        ] {
            assert_eq!(tcp_flags(&frame(kinds, &v4), Framing::Ethernet), Ok(FLAGS));
        }
    }

    #[test]
    fn what_is_no_tcp_says_so() {
        assert_eq!(raw(&ipv4(17, 0, 0, &tcp())), Err(Skipped::NonTcp));
        assert_eq!(raw(&ipv4(17, 5, 0, &tcp())), Err(Skipped::NonTcp));
        assert_eq!(raw(&ipv6(&[], 58, &tcp())), Err(Skipped::NonTcp));
        assert_eq!(
            raw(&ipv6(&[(60, vec![0; 7])], 59, &[])),
            Err(Skipped::NonTcp)
        );
        for kind in [0x0806, 0x8864, 46, 0x8847] {
            let arp = frame(&[kind], &[0; 46]);
            assert_eq!(tcp_flags(&arp, Framing::Ethernet), Err(Skipped::NonTcp));
        }
    }

    #[test]
    fn a_later_fragment_of_tcp_is_a_fragment_whatever_is_in_it() {
        assert_eq!(raw(&ipv4(6, 1, 0, &tcp())), Err(Skipped::Fragment));
        assert_eq!(raw(&ipv4(6, 0x2001, 0, &tcp())), Err(Skipped::Fragment));
        let later = (44, vec![0, 0, 8, 0, 0, 0, 0]);
        assert_eq!(
            raw(&ipv6(std::slice::from_ref(&later), 6, &tcp())),
            Err(Skipped::Fragment)
        );
        assert_eq!(
            raw(&ipv6(std::slice::from_ref(&later), 60, &tcp())),
            Err(Skipped::Fragment)
        );
        assert_eq!(raw(&ipv6(&[later], 17, &tcp())), Err(Skipped::NonTcp));
    }

    #[test]
    fn what_makes_no_sense_is_unparsed() {
        let mut wrong_version = ipv4(6, 0, 0, &tcp());
        wrong_version[0] = 0x55;
        assert_eq!(raw(&wrong_version), Err(Skipped::Unparsed));
        let mut short_header = ipv4(6, 0, 0, &tcp());
        short_header[0] = 0x44;
        assert_eq!(raw(&short_header), Err(Skipped::Unparsed));
        // The flags are behind what the header says is the end.
        let mut padded = ipv4(6, 0, 0, &tcp());
        padded[3] = 33;
        assert_eq!(raw(&padded), Err(Skipped::Unparsed));
        padded[3] = 34;
        assert_eq!(raw(&padded), Ok(FLAGS));
        padded[3] = 0;
        assert_eq!(raw(&padded), Ok(FLAGS));
        let mut padded = ipv6(&[], 6, &tcp());
        padded[5] = 13;
        assert_eq!(raw(&padded), Err(Skipped::Unparsed));
        let tags = frame(&[0x8100, 0x8100, 0x8100, 0x0800], &ipv4(6, 0, 0, &tcp()));
        assert_eq!(tcp_flags(&tags, Framing::Ethernet), Err(Skipped::Unparsed));
        let other = frame(&[0x86dd], &ipv4(6, 0, 0, &tcp()));
        assert_eq!(tcp_flags(&other, Framing::Ethernet), Err(Skipped::Unparsed));
    }

    #[test]
    fn no_more_extension_headers_are_looked_through_than_the_limit() {
        let some = |count| vec![(60, vec![0; 7]); count];
        assert_eq!(
            raw(&ipv6(&some(MAX_EXTENSION_HEADERS), 6, &tcp())),
            Ok(FLAGS)
        );
        let more = ipv6(&some(MAX_EXTENSION_HEADERS + 1), 6, &tcp());
        assert_eq!(raw(&more), Err(Skipped::Unparsed));
    }

    #[test]
    fn a_segment_cut_off_before_its_flags_is_unparsed_at_every_byte() {
        for packet in [
            ipv4(6, 0, 8, &tcp()),
            ipv6(&[(0, vec![0; 7]), (44, vec![0; 7])], 6, &tcp()),
        ] {
            for length in 0..packet.len() {
                let expected = if length < packet.len() - 6 {
                    Err(Skipped::Unparsed)
                } else {
                    Ok(FLAGS)
                };
                assert_eq!(raw(&packet[..length]), expected, "{length} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = tcp_flags(&bytes, Framing::Ethernet);
            let _ = raw(&bytes);
        }
    }
}
