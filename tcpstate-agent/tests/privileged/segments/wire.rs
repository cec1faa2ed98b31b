//! A wire: two interfaces of one namespace that are each other's far end, and raw packets on them.

use std::{os::fd::AsFd as _, time::Duration};

use rustix::net::{SendFlags, send};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tcpstate_common::{Direction, SegmentCounts};

use super::load;
use crate::harness::{Netns, require, within};
use tcpstate_agent::{
    collect::segments::{Counts, Follower, SegmentSettings, Selection},
    host::netlink::{Interface, Netlink},
    kernel::{SegmentOptions, XdpMode},
};

/// The interface that is counted, and its far end.
pub(super) const NEAR: &str = "near0";
pub(super) const FAR: &str = "far0";

/// `htons(ETH_P_ALL)` and nothing that comes: the socket only sends.
const NO_PROTOCOL: i32 = 0;

/// A namespace with a wire in it, on which nothing but what the test sends passes.
pub(super) fn wire() -> Netns {
    let namespace = Netns::new();
    add_wire(&namespace);
    namespace
}

/// Makes the wire, again if it was removed.
pub(super) fn add_wire(namespace: &Netns) {
    namespace.command(
        "ip",
        &["link", "add", NEAR, "type", "veth", "peer", "name", FAR],
    );
    for end in [NEAR, FAR] {
        // Without an address of IPv6 the kernel sends nothing by itself.
        namespace.command("ip", &["link", "set", end, "addrgenmode", "none"]);
        namespace.command("ip", &["link", "set", end, "up"]);
    }
    carries(namespace);
}

/// Waits until what is sent on the far end is carried, which the kernel sees to a while after both
/// ends are up: until then it drops it.
pub(super) fn carries(namespace: &Netns) {
    within(Duration::from_secs(30), || {
        let link = namespace.command("ip", &["-oneline", "link", "show", FAR]);
        require(link.contains(" state UP "), link)
    });
}

/// What there is to know of an interface.
pub(super) fn interface(namespace: &Netns, name: &str) -> Option<Interface> {
    let interfaces = namespace.enter(|| Netlink::open().unwrap().interfaces().unwrap());
    interfaces
        .into_iter()
        .find(|interface| interface.name == name)
}

/// Follows the interfaces with this name.
pub(super) fn follow(namespace: &Netns, device: &str, xdp: Option<XdpMode>) -> Follower {
    namespace.enter(|| {
        let settings = SegmentSettings {
            devices: Selection::new(vec![device.to_owned()]).unwrap(),
            xdp,
        };
        Follower::start(load(SegmentOptions::default()), settings).unwrap()
    })
}

/// What was counted on an interface; nothing where it is not shown.
pub(super) fn counts(follower: &mut Follower, name: &str) -> Option<Counts> {
    let devices = follower.read().devices;
    devices
        .into_iter()
        .find_map(|(device, counts)| (device == name).then_some(counts))
}

/// What was counted on the near end, which is there.
pub(super) fn near(follower: &mut Follower, direction: Direction) -> SegmentCounts {
    counts(follower, NEAR).unwrap()[direction.slot()]
}

/// All packets of these counts.
pub(super) fn sum(counts: &SegmentCounts) -> u64 {
    counts.by_flags.iter().chain(&counts.skipped).sum()
}

/// The packets that the kernel says have passed an interface, by direction.
pub(super) fn passed(namespace: &Netns, name: &str) -> [u64; 2] {
    let shown = namespace.command("ip", &["-s", "-j", "link", "show", name]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    ["rx", "tx"].map(|way| shown[0]["stats64"][way]["packets"].as_u64().unwrap())
}

/// Sends frames by an interface.
pub(super) struct Sender(Socket);

impl Sender {
    pub(super) fn new(namespace: &Netns, name: &str) -> Self {
        let index = interface(namespace, name).unwrap().index;
        let socket = namespace.enter(|| {
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(NO_PROTOCOL))).unwrap()
        });
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: the storage is large enough for every address of a socket, and zeros are one.
        let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        link.sll_family = libc::AF_PACKET.try_into().unwrap();
        link.sll_ifindex = index.try_into().unwrap();
        let length = size_of::<libc::sockaddr_ll>().try_into().unwrap();
        // SAFETY: the family has just been set, and the length is that of its addresses.
        let address = unsafe { SockAddr::new(storage, length) };
        socket.bind(&address).unwrap();
        Self(socket)
    }

    pub(super) fn send(&self, frame: &[u8]) {
        let sent = send(self.0.as_fd(), frame, SendFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }
}
