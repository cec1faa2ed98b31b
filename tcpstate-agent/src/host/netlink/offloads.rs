//! What a network card puts together before the kernel sees it: over generic netlink, as `ethtool`
//! asks for it (since Linux 5.6).

use std::io;

use rustix::{io::Errno, net::netlink};

use super::{
    NLM_F_ACK, NLM_F_REQUEST, Netlink,
    message::{add_attribute, attributes, text, u16_at},
};

/// Asks about the features of interfaces, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Offloads {
    netlink: Netlink,
    /// The number of ethtool's messages.
    family: u16,
}

/// Something that makes one segment of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Merging {
    /// LRO: what goes on from here is not what came.
    Lro,
    /// GRO in hardware.
    GroHw,
}

impl Merging {
    const ALL: [Self; 2] = [Self::Lro, Self::GroHw];

    /// What the kernel calls it, and `ethtool -K` too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lro => "rx-lro",
            Self::GroHw => "rx-gro-hw",
        }
    }
}

/// `struct genlmsghdr`.
const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

impl Offloads {
    /// Opens one in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let mut netlink = Netlink::open_protocol(Some(netlink::GENERIC))?;
        let mut body = header(CTRL_CMD_GETFAMILY);
        add_attribute(&mut body, CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
        let family = get(&mut netlink, GENL_ID_CTRL, &body, parse_family)?;
        let family = family.ok_or_else(|| io::Error::from(Errno::NOENT))?;
        Ok(Self { netlink, family })
    }

    /// What is on of those on an interface.
    pub fn merging(&mut self, device: u32) -> io::Result<Vec<Merging>> {
        let mut asked = Vec::new();
        add_attribute(
            &mut asked,
            ETHTOOL_A_HEADER_DEV_INDEX,
            &device.to_ne_bytes(),
        );
        let mut body = header(ETHTOOL_MSG_FEATURES_GET);
        add_attribute(&mut body, ETHTOOL_A_FEATURES_HEADER | NESTED, &asked);
        let active = get(&mut self.netlink, self.family, &body, parse_merging)?;
        Ok(active.unwrap_or_default())
    }
}

fn header(command: u8) -> Vec<u8> {
    vec![command, 1, 0, 0]
}

/// Asks for one thing.
fn get<T>(
    netlink: &mut Netlink,
    kind: u16,
    body: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    let mut parsed = None;
    netlink.ask(kind, NLM_F_REQUEST | NLM_F_ACK, body, |part| {
        parsed = parsed.take().or_else(|| parse(part));
    })?;
    Ok(parsed)
}

fn value(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

fn parse_family(part: &[u8]) -> Option<u16> {
    u16_at(value(part.get(HEADER..)?, CTRL_ATTR_FAMILY_ID)?, 0)
}

/// Of what is on the kernel lists the names, and nothing else.
fn parse_merging(part: &[u8]) -> Option<Vec<Merging>> {
    let active = value(part.get(HEADER..)?, ETHTOOL_A_FEATURES_ACTIVE)?;
    let names: Vec<String> = attributes(value(active, ETHTOOL_A_BITSET_BITS)?)
        .filter_map(|(_, bit)| value(bit, ETHTOOL_A_BITSET_BIT_NAME))
        .map(text)
        .collect();
    let is_on = |merging: &Merging| names.iter().any(|name| name == merging.name());
    Some(Merging::ALL.into_iter().filter(is_on).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(names: &[&str]) -> Vec<u8> {
        let mut bits = Vec::new();
        for name in names {
            let mut bit = Vec::new();
            add_attribute(&mut bit, 1, &[0; 4]);
            add_attribute(&mut bit, ETHTOOL_A_BITSET_BIT_NAME, name.as_bytes());
            add_attribute(&mut bits, 1 | NESTED, &bit);
        }
        let mut active = Vec::new();
        add_attribute(&mut active, 1, &[]);
        add_attribute(&mut active, ETHTOOL_A_BITSET_BITS | NESTED, &bits);
        let mut part = header(ETHTOOL_MSG_FEATURES_GET);
        add_attribute(&mut part, ETHTOOL_A_FEATURES_ACTIVE | NESTED, &active);
        part
    }

    #[test]
    fn what_is_on_is_found_by_its_name() {
        for (names, merging) in [
            (&[][..], vec![]),
            (&["rx-gro", "rx-gro-list", "tx-lro"], vec![]),
            (&["rx-gro", "rx-lro"], vec![Merging::Lro]),
            (&["rx-gro-hw", "rx-lro"], vec![Merging::Lro, Merging::GroHw]),
        ] {
            let part = part(names);
            assert_eq!(parse_merging(&part), Some(merging), "{names:?}");
            for length in 0..part.len() {
                let _ = parse_merging(&part[..length]);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_merging(&bytes);
            let _ = parse_family(&bytes);
        }
    }
}
