//! From a packet to its TCP header.
//!
//! What is a segment and what is not is defined by the agent's `decode::packet`, which the tests
//! compare this with.

use tcpstate_common::{Family, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, Skipped};

use crate::packet::Packet;

/// A TCP segment that was found in a packet.
pub(crate) struct Segment {
    pub(crate) family: Family,
    /// Where the IP header begins.
    pub(crate) network: usize,
    /// Where the TCP header begins, of which 14 bytes are there.
    pub(crate) transport: usize,
    /// Byte 13 of the TCP header.
    pub(crate) flags: u8,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and what was used before that.
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const TCP: u8 = 6;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Bytes of a TCP header up to the flags, with them.
const UP_TO_FLAGS: usize = 14;

#[inline(always)]
pub(crate) fn parse(packet: &impl Packet, is_raw_ip: bool) -> Result<Segment, Skipped> {
    let (family, network) = if is_raw_ip {
        let [first] = packet.load(0).ok_or(Skipped::Unparsed)?;
        match first >> 4 {
            4 => (Family::Ipv4, 0),
            6 => (Family::Ipv6, 0),
            _ => return Err(Skipped::Unparsed),
        }
    } else {
        behind_ethernet(packet)?
    };
    let transport = match family {
        Family::Ipv4 => behind_ipv4(packet, network)?,
        Family::Ipv6 => behind_ipv6(packet, network)?,
    };
    let header: [u8; UP_TO_FLAGS] = packet.load(transport).ok_or(Skipped::Unparsed)?;
    Ok(Segment {
        family,
        network,
        transport,
        flags: header[13],
    })
}

#[inline(always)]
fn behind_ethernet(packet: &impl Packet) -> Result<(Family, usize), Skipped> {
    let mut at = 12;
    let mut tags = 0;
    loop {
        let kind = u16::from_be_bytes(packet.load(at).ok_or(Skipped::Unparsed)?);
        if kind == IPV4 {
            return Ok((Family::Ipv4, at + 2));
        }
        if kind == IPV6 {
            return Ok((Family::Ipv6, at + 2));
        }
        if kind != VLAN[0] && kind != VLAN[1] && kind != VLAN[2] {
            return Err(Skipped::NonTcp);
        }
        if tags == MAX_VLAN_TAGS {
            return Err(Skipped::Unparsed);
        }
        tags += 1;
        at += 4;
    }
}

#[inline(always)]
fn behind_ipv4(packet: &impl Packet, at: usize) -> Result<usize, Skipped> {
    let header: [u8; 20] = packet.load(at).ok_or(Skipped::Unparsed)?;
    let length = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return Err(Skipped::Unparsed);
    }
    if header[9] != TCP {
        return Err(Skipped::NonTcp);
    }
    if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
        return Err(Skipped::Fragment);
    }
    // 0 is more than 65,535, which the kernel makes of many segments.
    let total = u16::from_be_bytes([header[2], header[3]]);
    if total != 0 && usize::from(total) < length + UP_TO_FLAGS {
        return Err(Skipped::Unparsed);
    }
    Ok(at + length)
}

#[inline(always)]
fn behind_ipv6(packet: &impl Packet, at: usize) -> Result<usize, Skipped> {
    let header: [u8; 40] = packet.load(at).ok_or(Skipped::Unparsed)?;
    if header[0] >> 4 != 6 {
        return Err(Skipped::Unparsed);
    }
    // 0 is more than 65,535, as above.
    let payload = u16::from_be_bytes([header[4], header[5]]);
    let mut kind = header[6];
    let mut behind = 0;
    let mut headers = 0;
    while kind != TCP {
        if !is_extension(kind) {
            return Err(Skipped::NonTcp);
        }
        if headers == MAX_EXTENSION_HEADERS {
            return Err(Skipped::Unparsed);
        }
        headers += 1;
        let header: [u8; 8] = packet.load(at + 40 + behind).ok_or(Skipped::Unparsed)?;
        let next = header[0];
        if kind == FRAGMENT && u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
            let may_be_tcp = next == TCP || is_extension(next);
            return Err(if may_be_tcp {
                Skipped::Fragment
            } else {
                Skipped::NonTcp
            });
        }
        let length = usize::from(header[1]);
        behind += match kind {
            FRAGMENT => 8,
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        kind = next;
    }
    if payload != 0 && usize::from(payload) < behind + UP_TO_FLAGS {
        return Err(Skipped::Unparsed);
    }
    Ok(at + 40 + behind)
}

/// Hop-by-hop options, routing, fragment, authentication, destination options, mobility, HIP and
/// shim6: those that say how long they are.
#[inline(always)]
const fn is_extension(kind: u8) -> bool {
    matches!(
        kind,
        0 | 43 | FRAGMENT | AUTHENTICATION | 60 | 135 | 139 | 140
    )
}
