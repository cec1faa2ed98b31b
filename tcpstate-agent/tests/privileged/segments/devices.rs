//! Interfaces that come, go, change their names, or belong to others; and what stays on them.

use std::{process::Command, time::Duration};

use rustix::process::Signal;
use tcpstate_common::Direction;

use super::{
    load,
    packets::{IPV4, frame, ipv4, tcp},
    wire::{FAR, NEAR, Sender, add_wire, carries, counts, follow, interface, near, sum, wire},
};
use crate::{
    harness::{AGENT, Netns, Running, require, run, within},
    peer::{KERNEL_V4, PEER_V4, Peer},
};
use tcpstate_agent::{
    collect::segments::Means,
    host::netlink::{Netlink, NewFilter},
    kernel::{SegmentOptions, XdpMode},
};

const SHOWN: Duration = Duration::from_secs(30);

/// A SYN that comes by the near end.
fn send_syn(namespace: &Netns) {
    Sender::new(namespace, FAR).send(&frame(&[IPV4], &ipv4(6, 0, 0, &tcp(0x02))));
}

/// The filters of an interface, by name.
fn filters(namespace: &Netns, index: u32) -> Vec<String> {
    namespace.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        Direction::ALL
            .into_iter()
            .flat_map(|direction| netlink.filters(index, direction).unwrap())
            .map(|filter| filter.name)
            .collect()
    })
}

#[test]
fn a_program_that_is_there_stays_and_tc_is_used() {
    let namespace = wire();
    let index = interface(&namespace, NEAR).unwrap().index;
    let other = load(SegmentOptions::default());
    let link = namespace.enter(|| other.attach_xdp(index, XdpMode::Skb).unwrap());
    let theirs = interface(&namespace, NEAR).unwrap().xdp.unwrap();
    for mode in [XdpMode::Skb, XdpMode::Native] {
        let mut follower = follow(&namespace, NEAR, Some(mode));
        let states = follower.states();
        let seen = states[0].outcome.as_ref().unwrap();
        assert!(
            matches!(seen.means[0], Means::Tcx | Means::Clsact),
            "{states:?}"
        );
        let why = seen.without_xdp.as_ref().unwrap();
        assert!(why.contains("stays"), "{why}");
        assert_eq!(interface(&namespace, NEAR).unwrap().xdp, Some(theirs));
        send_syn(&namespace);
        within(SHOWN, || {
            let counts = near(&mut follower, Direction::Ingress);
            require(
                counts.by_flags[2] == 1 && sum(&counts) == 1,
                format!("{} SYNs, skipped {:?}", counts.by_flags[2], counts.skipped),
            )
        });
    }
    // The kernel refuses a second one, whichever way it is asked.
    for mode in [XdpMode::Skb, XdpMode::Native] {
        assert!(namespace.enter(|| other.attach_xdp(index, mode)).is_err());
    }
    drop(link);
    assert_eq!(interface(&namespace, NEAR).unwrap().xdp, None);
}

#[test]
fn an_interface_is_followed_when_it_goes_and_comes_back_and_when_it_changes_its_name() {
    let namespace = wire();
    let mut follower = follow(&namespace, "near*", Some(XdpMode::Skb));
    let mut shows = |name: &str, expected: Option<u64>| {
        within(SHOWN, || {
            namespace.enter(|| follower.follow().unwrap());
            let shown = counts(&mut follower, name).map(|counts| counts[0].by_flags[2]);
            require(
                shown == expected,
                format!("{name}: {shown:?}, not {expected:?}"),
            )
        });
    };
    send_syn(&namespace);
    shows(NEAR, Some(1));
    namespace.command("ip", &["link", "delete", NEAR]);
    shows(NEAR, None);
    add_wire(&namespace);
    shows(NEAR, Some(1));
    send_syn(&namespace);
    shows(NEAR, Some(2));
    namespace.command("ip", &["link", "set", NEAR, "down"]);
    namespace.command("ip", &["link", "set", NEAR, "name", "near1"]);
    namespace.command("ip", &["link", "set", "near1", "up"]);
    shows("near1", Some(0));
    shows(NEAR, None);
    carries(&namespace);
    send_syn(&namespace);
    shows("near1", Some(1));
    namespace.command("ip", &["link", "set", "near1", "down"]);
    namespace.command("ip", &["link", "set", "near1", "name", "other1"]);
    shows("near1", None);
    assert_eq!(interface(&namespace, "other1").unwrap().xdp, None);
}

#[test]
fn an_interface_without_ethernet_is_counted() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let mut follower = follow(&namespace, "tun0", Some(XdpMode::Skb));
    let listener = namespace.enter(|| std::net::TcpListener::bind((KERNEL_V4, 80)).unwrap());
    let connection = peer.connect((PEER_V4, 4000).into(), (KERNEL_V4, 80).into());
    peer.reset(&connection);
    within(SHOWN, || {
        let counts = counts(&mut follower, "tun0").unwrap();
        let seen = [0x02, 0x10, 0x14].map(|flags| counts[0].by_flags[flags]);
        require(
            seen == [1, 1, 1] && counts[1].by_flags[0x12] == 1,
            format!("{seen:?}, skipped {:?}", counts[0].skipped),
        )
    });
    drop(listener);
}

#[test]
fn what_a_killed_agent_has_left_is_removed_and_nothing_else() {
    let namespace = wire();
    let index = interface(&namespace, NEAR).unwrap().index;
    let other = load(SegmentOptions::default());
    let add = |name: &str, handle: u32| {
        namespace.enter(|| {
            let filter = NewFilter {
                device: index,
                direction: Direction::Egress,
                handle,
                name,
                program: other.tc_program(Direction::Egress).unwrap(),
            };
            Netlink::open().unwrap().add_filter(&filter).unwrap();
        });
    };
    add("someone-else", 5);
    add("tcpstate-segments", 1_999_999_999);
    assert_eq!(filters(&namespace, index).len(), 2);
    let follower = follow(&namespace, FAR, Some(XdpMode::Skb));
    assert_eq!(filters(&namespace, index), ["someone-else"]);
    drop(follower);
    assert_eq!(filters(&namespace, index), ["someone-else"]);
}

#[test]
fn after_sigkill_nothing_stays_on_the_interface_or_the_next_start_removes_it() {
    let namespace = wire();
    let index = interface(&namespace, NEAR).unwrap().index;
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.way_in()))
        .args([AGENT, "run", "--web.listen-address", "127.0.0.1:0"])
        .arg("--control.socket")
        .arg(folder.path().join("socket"))
        .args(["--segments.device", NEAR]);
    let agent = Running::start(&mut command);
    let has_xdp = || interface(&namespace, NEAR).unwrap().xdp.is_some();
    within(SHOWN, || require(has_xdp(), "nothing is attached"));
    agent.signal(Signal::KILL);
    agent.finish();
    within(SHOWN, || require(!has_xdp(), "XDP is still there"));
    let attached = || namespace.command("bpftool", &["--json", "net", "show"]);
    if filters(&namespace, index).is_empty() {
        within(SHOWN, || {
            let shown = attached();
            require(!shown.contains("segments_"), shown)
        });
    } else {
        drop(follow(&namespace, NEAR, Some(XdpMode::Skb)));
        assert!(filters(&namespace, index).is_empty());
    }
}

#[test]
fn check_says_of_each_interface_what_is_there_and_what_could_be() {
    let namespace = wire();
    let index = interface(&namespace, NEAR).unwrap().index;
    let other = load(SegmentOptions::default());
    let _link = namespace.enter(|| other.attach_xdp(index, XdpMode::Skb).unwrap());
    let check = |arguments: &[&str]| {
        let output = namespace.enter(|| run(AGENT, &[&["check"], arguments].concat()));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check(&[]);
    assert!(said.contains("interface near0: XDP program"), "{said}");
    assert!(
        said.contains("interface far0: no XDP program, segments can be counted"),
        "{said}"
    );
    let said = check(&["--segments.device", "near0,far0"]);
    assert!(
        said.contains("segments on near0: what comes in by TC"),
        "{said}"
    );
    assert!(said.contains("and stays"), "{said}");
    assert!(
        said.contains("segments on far0: what comes in by XDP, skb"),
        "{said}"
    );
    assert_eq!(interface(&namespace, FAR).unwrap().xdp, None);
}
