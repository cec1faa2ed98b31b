//! Packets, byte by byte: etherparse would not build the wrong ones.

/// A TCP header with these flags.
pub(super) fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..4].copy_from_slice(&[0x9c, 0x40, 0x00, 0x50]);
    header[12] = 5 << 4;
    header[13] = flags;
    header
}

/// An IPv4 packet; `fragment` are the flags and the offset.
pub(super) fn ipv4(protocol: u8, fragment: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let header_length = 20 + options;
    let mut packet = vec![0; header_length];
    packet[0] = 0x40 | u8::try_from(header_length / 4).unwrap();
    let total = u16::try_from(header_length + payload.len()).unwrap();
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..20].copy_from_slice(&[10, 9, 0, 2, 10, 9, 0, 1]);
    packet.extend(payload);
    packet
}

/// An IPv6 packet with `extensions`, each its kind and its bytes but for the first, before a `last`
/// header.
pub(super) fn ipv6(extensions: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    let kinds = extensions.iter().map(|(kind, _)| *kind);
    let kinds: Vec<u8> = kinds.chain([last]).collect();
    packet[6] = kinds[0];
    packet[7] = 64;
    packet[8] = 0xfd;
    packet[24] = 0xfd;
    for ((_, bytes), next) in extensions.iter().zip(&kinds[1..]) {
        packet.push(*next);
        packet.extend(bytes);
    }
    packet.extend(payload);
    let length = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

/// An Ethernet frame; each of `kinds` but the last is that of a VLAN tag.
pub(super) fn frame(kinds: &[u16], datagram: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for kind in kinds {
        if frame.len() > 12 {
            frame.extend([0, 7]);
        }
        frame.extend(kind.to_be_bytes());
    }
    frame.extend(datagram);
    frame
}

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;

/// Every shape that a program has to tell from the others, without its Ethernet header.
pub(super) fn datagrams() -> Vec<(u16, Vec<u8>)> {
    let extension = |kind, bytes: usize| (kind, vec![0; bytes]);
    let long =
        |kind: u8, length: u8, bytes: usize| (kind, [vec![length], vec![0; bytes - 2]].concat());
    let fragment = |offset: u8| (44, vec![0, offset, 0, 0, 0, 0, 0]);
    let segment = tcp(0x12);
    let mut all = vec![
        (IPV4, ipv4(6, 0, 0, &segment)),
        (IPV4, ipv4(6, 0x4000, 4, &segment)),
        (IPV4, ipv4(6, 0x2000, 40, &segment)),
        (IPV4, ipv4(6, 0x2001, 0, &segment)),
        (IPV4, ipv4(6, 0x1fff, 0, &segment)),
        (IPV4, ipv4(17, 0, 0, &segment)),
        (IPV4, ipv4(17, 7, 0, &segment)),
        (IPV6, ipv6(&[], 6, &segment)),
        (IPV6, ipv6(&[], 58, &segment)),
        (IPV6, ipv6(&[extension(0, 7)], 6, &segment)),
        (
            IPV6,
            ipv6(
                &[extension(0, 7), extension(43, 7), fragment(0)],
                6,
                &segment,
            ),
        ),
        (IPV6, ipv6(&[long(60, 3, 32), long(51, 4, 24)], 6, &segment)),
        (IPV6, ipv6(&[long(60, 255, 2048)], 6, &segment)),
        (IPV6, ipv6(&[fragment(1)], 6, &segment)),
        (IPV6, ipv6(&[fragment(1)], 60, &segment)),
        (IPV6, ipv6(&[fragment(1)], 17, &segment)),
        (IPV6, ipv6(&[extension(60, 7)], 59, &[])),
        (
            IPV6,
            ipv6(
                &[extension(135, 7), extension(139, 7), extension(140, 7)],
                6,
                &segment,
            ),
        ),
    ];
    for count in 5..=8 {
        all.push((IPV6, ipv6(&vec![extension(60, 7); count], 6, &segment)));
    }
    // Hostile: lengths that lead out of the packet, or say that there is nothing.
    for length in [0, 1, 33, 34, 40, u16::MAX] {
        let mut packet = ipv4(6, 0, 0, &segment);
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        all.push((IPV4, packet));
        let mut packet = ipv6(&[extension(0, 7)], 6, &segment);
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        all.push((IPV6, packet));
    }
    for first in 0..=u8::MAX {
        let mut packet = ipv4(6, 0, 0, &segment);
        packet[0] = first;
        all.push((IPV4, packet.clone()));
        all.push((IPV6, packet));
    }
    for length in [1, 2, 127, 255] {
        for kind in [0, 43, 51, 60] {
            all.push((IPV6, ipv6(&[long(kind, length, 8)], 6, &segment)));
            all.push((IPV6, ipv6(&[long(kind, length, 8)], 17, &segment)));
        }
    }
    all
}
