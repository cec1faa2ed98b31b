//! From what is known of an interface to how its segments can be counted: pure.

use std::io;

use rustix::io::Errno;

use super::{below::Below, packet::Framing};
use crate::{
    host::netlink::Interface,
    kernel::{XdpMode, plan::Obstacle},
};

/// How to see what comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By XDP.
    Xdp(XdpMode),
    /// By TC.
    Tc,
}

/// How to count the segments of an interface. What goes out is always seen by TC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// How its packets begin.
    pub framing: Framing,
    /// What to try for what comes in, one after the other.
    pub ingress: Vec<Way>,
    /// Why XDP is not among them though it is wanted.
    pub without_xdp: Option<String>,
}

/// `ARPHRD_…` of interfaces with Ethernet headers: Ethernet itself, and the loopback interface.
const ETHERNET: [u16; 2] = [1, 772];
/// Of those without: PPP, raw IP, IP in IP of all kinds, GRE of both, and none (TUN, WireGuard).
const RAW_IP: [u16; 8] = [512, 519, 768, 769, 776, 778, 823, 0xfffe];

/// Decides how to count on `interface`, with XDP in this mode where it is wanted.
pub fn plan(
    interface: &Interface,
    below: &Below,
    xdp: Option<XdpMode>,
) -> Result<DevicePlan, Obstacle> {
    let framing = if ETHERNET.contains(&interface.link_type) {
        Framing::Ethernet
    } else if RAW_IP.contains(&interface.link_type) {
        Framing::RawIp
    } else {
        return Err(Obstacle {
            cause: format!(
                "it is of a kind that this version does not know (link type {})",
                interface.link_type
            ),
            remedy: "count on an interface with Ethernet headers, or with none".to_owned(),
        });
    };
    let without_xdp = match (xdp, interface.xdp, framing) {
        (Some(_), Some(there), _) => Some(format!(
            "XDP program {} is there ({}) and stays",
            there.program, there.mode
        )),
        (Some(_), None, Framing::RawIp) => {
            Some("its packets have no Ethernet header, as XDP takes for granted".to_owned())
        }
        (Some(XdpMode::Native), None, Framing::Ethernet) if below.hands_on => Some(
            "its driver has the interfaces below it run an XDP program, each by its own number"
                .to_owned(),
        ),
        (Some(XdpMode::Skb), None, Framing::Ethernet) => would_turn_off(below),
        (None, _, _) | (Some(XdpMode::Native), None, Framing::Ethernet) => None,
    };
    let xdp = xdp.filter(|_| without_xdp.is_none());
    Ok(DevicePlan {
        framing,
        ingress: xdp.map(Way::Xdp).into_iter().chain([Way::Tc]).collect(),
        without_xdp,
    })
}

/// What XDP in the network stack would turn off, for good: the kernel does not turn it on again
/// ([`generic_xdp_install`](https://github.com/torvalds/linux/blob/v6.12/net/core/dev.c)).
fn would_turn_off(below: &Below) -> Option<String> {
    if below.merging.is_empty() {
        return None;
    }
    let each = |join: &str, say: fn(&str, &str) -> String| -> String {
        let all = below.merging.iter();
        let said: Vec<_> = all
            .map(|(name, merging)| say(name, merging.name()))
            .collect();
        said.join(join)
    };
    Some(format!(
        "{} would be turned off by XDP in the network stack, and stay so; if that is no loss, turn \
         it off (`{}`)",
        each(", ", |name, what| format!("{what} of {name}")),
        each("; ", |name, what| format!("ethtool -K {name} {what} off"))
    ))
}

/// Why an interface does not take an XDP program, and what to do about it.
#[must_use]
pub fn xdp_refusal(interface: &Interface, mode: XdpMode, error: &io::Error) -> String {
    let Interface { name, mtu, .. } = interface;
    let is_one_of = |errnos: &[Errno]| {
        let mut errnos = errnos.iter();
        errnos.any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    };
    if is_one_of(&[Errno::BUSY, Errno::EXIST]) {
        return "another XDP program is there and stays".to_owned();
    }
    if is_one_of(&[Errno::PERM, Errno::ACCESS]) {
        return "XDP is not permitted: grant CAP_NET_ADMIN".to_owned();
    }
    match mode {
        XdpMode::Native if is_one_of(&[Errno::OPNOTSUPP, Errno::NOTSUP]) => {
            "its driver has no XDP: use --segments.xdp-mode skb".to_owned()
        }
        XdpMode::Native if is_one_of(&[Errno::INVAL, Errno::RANGE, Errno::MSGSIZE]) => format!(
            "its driver refuses XDP ({error}): an MTU of {mtu} may be too large for it, or LRO in \
             the way (`ethtool -K {name} lro off`); else use --segments.xdp-mode skb"
        ),
        _ => format!("XDP is refused: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::below, *};
    use crate::host::netlink::{Merging, XdpPresence};

    fn interface(link_type: u16) -> Interface {
        Interface {
            link_type,
            name: "eth0".to_owned(),
            ..below::tests::interface(2, "")
        }
    }

    fn plan(interface: &Interface, xdp: Option<XdpMode>) -> Result<DevicePlan, Obstacle> {
        super::plan(interface, &Below::default(), xdp)
    }

    #[test]
    fn xdp_is_tried_before_tc() {
        for mode in [XdpMode::Skb, XdpMode::Native] {
            let plan = plan(&interface(1), Some(mode)).unwrap();
            assert_eq!(plan.ingress, [Way::Xdp(mode), Way::Tc]);
            assert_eq!(plan.without_xdp, None);
        }
    }

    #[test]
    fn without_xdp_what_comes_in_is_seen_by_tc() {
        let plan = plan(&interface(1), None).unwrap();
        assert_eq!((plan.ingress, plan.without_xdp), (vec![Way::Tc], None));
    }

    #[test]
    fn a_program_that_is_there_is_left_alone() {
        let taken = Interface {
            xdp: Some(XdpPresence {
                mode: "native",
                program: 7,
            }),
            ..interface(1)
        };
        let plan = plan(&taken, Some(XdpMode::Skb)).unwrap();
        assert_eq!(plan.ingress, [Way::Tc]);
        assert!(plan.without_xdp.unwrap().contains("program 7"));
    }

    #[test]
    fn what_xdp_would_turn_off_stays_on_and_tc_is_used() {
        let below = Below {
            merging: vec![
                ("eth0".to_owned(), Merging::Lro),
                ("eth0".to_owned(), Merging::GroHw),
            ],
            ..Below::default()
        };
        let plan = |xdp| super::plan(&interface(1), &below, Some(xdp)).unwrap();
        let skb = plan(XdpMode::Skb);
        assert_eq!(skb.ingress, [Way::Tc]);
        assert_eq!(
            skb.without_xdp.unwrap(),
            "rx-lro of eth0, rx-gro-hw of eth0 would be turned off by XDP in the network stack, \
             and stay so; if that is no loss, turn it off (`ethtool -K eth0 rx-lro off; ethtool -K \
             eth0 rx-gro-hw off`)"
        );
        // In the driver it is the driver's to say.
        assert_eq!(
            plan(XdpMode::Native).ingress,
            [Way::Xdp(XdpMode::Native), Way::Tc]
        );
    }

    #[test]
    fn a_program_that_others_would_run_is_not_put_there() {
        let below = Below {
            hands_on: true,
            ..Below::default()
        };
        let plan = |xdp| super::plan(&interface(1), &below, Some(xdp)).unwrap();
        let native = plan(XdpMode::Native);
        assert_eq!(native.ingress, [Way::Tc]);
        assert!(native.without_xdp.unwrap().contains("interfaces below it"));
        assert_eq!(
            plan(XdpMode::Skb).ingress,
            [Way::Xdp(XdpMode::Skb), Way::Tc]
        );
    }

    #[test]
    fn tunnels_have_no_ethernet_and_no_xdp_and_what_is_unknown_is_refused() {
        for link_type in RAW_IP {
            let plan = plan(&interface(link_type), Some(XdpMode::Skb)).unwrap();
            assert_eq!(
                (plan.framing, plan.ingress),
                (Framing::RawIp, vec![Way::Tc])
            );
        }
        for link_type in [32, 801, 803] {
            let obstacle = plan(&interface(link_type), None).unwrap_err();
            assert!(obstacle.cause.contains(&link_type.to_string()));
        }
    }

    #[test]
    fn each_refusal_has_its_remedy() {
        for (mode, errno, word) in [
            (XdpMode::Skb, Errno::BUSY, "stays"),
            (XdpMode::Skb, Errno::EXIST, "stays"),
            (XdpMode::Native, Errno::OPNOTSUPP, "xdp-mode skb"),
            (XdpMode::Native, Errno::INVAL, "ethtool -K eth0 lro off"),
            (XdpMode::Native, Errno::RANGE, "MTU of 9000"),
            (XdpMode::Skb, Errno::PERM, "CAP_NET_ADMIN"),
            (XdpMode::Skb, Errno::NOMEM, "memory"),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            let words = xdp_refusal(&interface(1), mode, &error);
            assert!(words.contains(word), "{errno:?}: {words}");
        }
    }
}
