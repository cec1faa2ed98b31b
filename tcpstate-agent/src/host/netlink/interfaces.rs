//! The network interfaces of a namespace.

use std::io;

use super::{
    Netlink,
    message::{attributes, text, u16_at, u32_at},
};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number, which it keeps for as long as it lives in this namespace.
    pub index: u32,
    /// Its name, which may change.
    pub name: String,
    /// What its packets begin with: `ARPHRD_…` of the kernel's
    /// [`if_arp.h`](https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/if_arp.h).
    pub link_type: u16,
    /// Its MTU.
    pub mtu: u32,
    /// What made it, such as `bond`, `veth` or `vlan`; nothing where it is hardware.
    pub kind: String,
    /// The interface that it is a part of, such as a bond or a bridge.
    pub master: Option<u32>,
    /// The interface of this namespace that it lies on, such as that of a VLAN; the other end of a
    /// pair.
    pub link: Option<u32>,
    /// The XDP program that it has.
    pub xdp: Option<XdpPresence>,
}

/// That there is an XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpPresence {
    /// How it is attached: `native`, `skb`, `offloaded` or `several`.
    pub mode: &'static str,
    /// Its number, as `bpftool prog` shows it; 0 for several.
    pub program: u32,
}

const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`.
const HEADER: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;

impl Netlink {
    /// All network interfaces.
    pub fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let mut interfaces = self.list(RTM_GETLINK, &[0; HEADER], parse)?;
        interfaces.sort_by_key(|interface: &Interface| interface.index);
        interfaces.dedup_by_key(|interface| interface.index);
        Ok(interfaces)
    }
}

fn parse(part: &[u8]) -> Option<Interface> {
    let mut interface = Interface {
        link_type: u16_at(part, 2)?,
        index: u32_at(part, 4)?,
        name: String::new(),
        mtu: 0,
        kind: String::new(),
        master: None,
        link: None,
        xdp: None,
    };
    let mut link_is_elsewhere = false;
    for (kind, value) in attributes(part.get(HEADER..)?) {
        match kind {
            IFLA_IFNAME => interface.name = text(value),
            IFLA_MTU => interface.mtu = u32_at(value, 0)?,
            IFLA_LINK => interface.link = Some(u32_at(value, 0)?).filter(|link| *link != 0),
            IFLA_MASTER => interface.master = Some(u32_at(value, 0)?),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                interface.kind = kind.map(|(_, kind)| text(kind)).unwrap_or_default();
            }
            IFLA_LINK_NETNSID => link_is_elsewhere = true,
            IFLA_XDP => interface.xdp = xdp(value),
            _ => {}
        }
    }
    if link_is_elsewhere {
        interface.link = None;
    }
    (interface.index != 0 && !interface.name.is_empty()).then_some(interface)
}

fn xdp(nested: &[u8]) -> Option<XdpPresence> {
    let (mut attached, mut program) = (0, 0);
    for (kind, value) in attributes(nested) {
        match kind {
            IFLA_XDP_ATTACHED => attached = *value.first()?,
            IFLA_XDP_PROG_ID => program = u32_at(value, 0)?,
            _ => {}
        }
    }
    let mode = match attached {
        0 => return None,
        1 => "native",
        2 => "skb",
        3 => "offloaded",
        _ => "several",
    };
    Some(XdpPresence { mode, program })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::message::add_attribute, *};

    fn part() -> Vec<u8> {
        let mut part = vec![0; HEADER];
        part[2..4].copy_from_slice(&1_u16.to_ne_bytes());
        part[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        add_attribute(&mut part, IFLA_IFNAME, b"eth0\0");
        add_attribute(&mut part, IFLA_MTU, &9000_u32.to_ne_bytes());
        add_attribute(&mut part, IFLA_LINK, &3_u32.to_ne_bytes());
        add_attribute(&mut part, IFLA_MASTER, &5_u32.to_ne_bytes());
        let mut info = Vec::new();
        add_attribute(&mut info, IFLA_INFO_KIND, b"vlan\0");
        add_attribute(&mut part, IFLA_LINKINFO, &info);
        let mut xdp = Vec::new();
        add_attribute(&mut xdp, IFLA_XDP_ATTACHED, &[2]);
        add_attribute(&mut xdp, IFLA_XDP_PROG_ID, &99_u32.to_ne_bytes());
        // Marked as nested.
        add_attribute(&mut part, IFLA_XDP | 0x8000, &xdp);
        part
    }

    #[test]
    fn an_interface_is_taken_apart() {
        let interface = Interface {
            index: 7,
            name: "eth0".to_owned(),
            link_type: 1,
            mtu: 9000,
            kind: "vlan".to_owned(),
            master: Some(5),
            link: Some(3),
            xdp: Some(XdpPresence {
                mode: "skb",
                program: 99,
            }),
        };
        assert_eq!(parse(&part()), Some(interface));
    }

    #[test]
    fn numbers_of_another_namespace_are_not_taken_for_ones_of_this() {
        let mut part = part();
        add_attribute(&mut part, IFLA_LINK_NETNSID, &0_u32.to_ne_bytes());
        assert_eq!(parse(&part).unwrap().link, None);
    }

    #[test]
    fn an_interface_cut_off_anywhere_is_no_fault() {
        let part = part();
        for length in 0..part.len() {
            let _ = parse(&part[..length]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
