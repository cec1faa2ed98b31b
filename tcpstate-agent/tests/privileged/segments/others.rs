//! What others have on an interface, and interfaces that are made of others.

use std::{process::Command, time::Duration};

use tcpstate_common::Direction;

use super::{
    load,
    packets::{IPV4, frame, ipv4, tcp},
    wire::{FAR, NEAR, Sender, counts, follow, interface, near, sum, wire},
};
use crate::harness::{AGENT, Netns, require, run, say_skipped, within};
use tcpstate_agent::{
    collect::segments::{Follower, Means, packet::Framing},
    host::netlink::{FilterError, Netlink, NewFilter, Offloads},
    kernel::{SegmentOptions, Segments, XdpMode},
};

const SHOWN: Duration = Duration::from_secs(30);
const OURS: &str = "tcpstate-segments";
const NUMBER: u32 = 77;

/// A SYN that goes out by this interface.
fn send_syn(namespace: &Netns, device: &str) {
    Sender::new(namespace, device).send(&frame(&[IPV4], &ipv4(6, 0, 0, &tcp(0x02))));
}

/// As the agent does it before Linux 6.6.
fn add_filter(
    namespace: &Netns,
    segments: &Segments,
    direction: Direction,
) -> Result<(), FilterError> {
    let index = interface(namespace, NEAR).unwrap().index;
    namespace.enter(|| {
        Netlink::open().unwrap().add_filter(&NewFilter {
            device: index,
            direction,
            handle: NUMBER,
            name: OURS,
            program: segments.tc_program(direction).unwrap(),
        })
    })
}

/// Kind and priority of each filter, in the order in which they see packets.
fn filters(namespace: &Netns, direction: Direction) -> Vec<(String, u16)> {
    let index = interface(namespace, NEAR).unwrap().index;
    let filters = namespace.enter(|| Netlink::open().unwrap().filters(index, direction).unwrap());
    filters
        .iter()
        .map(|filter| (filter.kind.clone(), filter.priority()))
        .collect()
}

/// A filter of another that decides on every packet that goes out.
fn decide(namespace: &Netns, priority: &str) {
    let filter = ["filter", "add", "dev", NEAR, "egress", "pref", priority];
    let every = ["protocol", "all", "u32", "match", "u32", "0", "0"];
    let verdict = ["flowid", "1:1"];
    namespace.command("tc", &[&filter[..], &every, &verdict].concat());
}

/// A wire with a place for filters on its near end.
fn wire_with_clsact() -> Netns {
    let namespace = wire();
    namespace.command("tc", &["qdisc", "add", "dev", NEAR, "clsact"]);
    namespace
}

/// Before Linux 6.6.
fn needs_filters(follower: &Follower) -> bool {
    let states = follower.states();
    let seen = states[0].outcome.as_ref();
    !seen.is_ok_and(|seen| seen.means[1] == Means::Tcx)
}

/// `ingress` takes filters for what goes out, and shows them what comes in.
#[test]
fn beside_an_ingress_qdisc_nothing_is_counted_in_the_wrong_direction() {
    let namespace = wire();
    namespace.command("tc", &["qdisc", "add", "dev", NEAR, "ingress"]);
    let segments = load(SegmentOptions::default());
    match add_filter(&namespace, &segments, Direction::Egress) {
        Err(FilterError::Taken(kind)) => assert_eq!(kind, "ingress"),
        other => panic!("{other:?}"),
    }
    add_filter(&namespace, &segments, Direction::Ingress).unwrap();
    assert_eq!(filters(&namespace, Direction::Ingress).len(), 1);
    let index = interface(&namespace, NEAR).unwrap().index;
    namespace.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        for filter in netlink.filters(index, Direction::Ingress).unwrap() {
            netlink.remove_filter(&filter).unwrap();
        }
    });

    let mut follower = follow(&namespace, NEAR, None);
    if needs_filters(&follower) {
        let states = follower.states();
        let obstacle = states[0].outcome.as_ref().unwrap_err();
        assert!(
            obstacle.cause.contains("`ingress` is there"),
            "{obstacle:?}"
        );
        assert!(obstacle.remedy.contains("dev near0 clsact"), "{obstacle:?}");
        assert_eq!(filters(&namespace, Direction::Ingress), []);
        return;
    }
    send_syn(&namespace, FAR);
    within(SHOWN, || {
        let counts = Direction::ALL.map(|direction| sum(&near(&mut follower, direction)));
        require(counts == [1, 0], format!("{counts:?}"))
    });
}

#[test]
fn a_filter_sees_packets_before_those_of_others_that_decide() {
    let namespace = wire_with_clsact();
    let index = interface(&namespace, NEAR).unwrap().index;
    decide(&namespace, "10");
    let mut segments = load(SegmentOptions::default());
    segments.add_device(index, Framing::Ethernet).unwrap();
    add_filter(&namespace, &segments, Direction::Egress).unwrap();
    let there = filters(&namespace, Direction::Egress);
    assert_eq!(there[0], ("bpf".to_owned(), 9), "{there:?}");
    send_syn(&namespace, NEAR);
    within(SHOWN, || {
        let counts = segments.counts(index, Direction::Egress).unwrap().unwrap();
        require(sum(&counts) == 1, format!("{}", sum(&counts)))
    });
}

#[test]
fn a_filter_that_cannot_be_before_those_of_others_says_so() {
    let namespace = wire_with_clsact();
    decide(&namespace, "1");
    let mut follower = follow(&namespace, NEAR, Some(XdpMode::Skb));
    let needs_filters = needs_filters(&follower);
    send_syn(&namespace, NEAR);
    within(SHOWN, || {
        let counts = near(&mut follower, Direction::Egress);
        let expected = u64::from(!needs_filters);
        require(sum(&counts) == expected, format!("{}", sum(&counts)))
    });
    let states = follower.states();
    let behind = &states[0].outcome.as_ref().unwrap().behind;
    drop(follower);
    let output = namespace.enter(|| run(AGENT, &["check", "--segments.device", NEAR]));
    let said = String::from_utf8(output.stdout).unwrap();
    let word = "not every segment: a filter (u32, priority 1) sees first what goes out";
    if needs_filters {
        assert!(behind[0].contains("priority 1"), "{behind:?}");
        assert!(said.contains(word), "{said}");
    } else {
        assert!(
            behind.is_empty() && !said.contains(word),
            "{behind:?} {said}"
        );
    }
}

/// Takes a minute where there are no links for TC.
#[test]
fn a_filter_that_comes_before_ours_is_overtaken_and_one_of_ours_that_is_removed_comes_back() {
    let namespace = wire_with_clsact();
    let mut follower = follow(&namespace, NEAR, Some(XdpMode::Skb));
    decide(&namespace, "3");
    let patience = if needs_filters(&follower) {
        assert_eq!(filters(&namespace, Direction::Egress)[0].0, "u32");
        Duration::from_mins(2)
    } else {
        SHOWN
    };
    let mut sent = 0;
    within(patience, || {
        send_syn(&namespace, NEAR);
        sent += 1;
        namespace.enter(|| follower.follow().unwrap());
        let seen = sum(&near(&mut follower, Direction::Egress));
        require(seen > 0, format!("{seen} of {sent}"))
    });
    let states = follower.states();
    assert!(states[0].outcome.as_ref().unwrap().behind.is_empty());
    if !needs_filters(&follower) {
        return;
    }
    namespace.command("tc", &["qdisc", "del", "dev", NEAR, "clsact"]);
    let before = sum(&near(&mut follower, Direction::Egress));
    within(patience, || {
        send_syn(&namespace, NEAR);
        namespace.enter(|| follower.follow().unwrap());
        let seen = sum(&near(&mut follower, Direction::Egress));
        require(seen > before, format!("{seen} after {before}"))
    });
}

/// A wire whose near end is a part of `bond0`; `None` where the kernel has no bonds.
fn bond() -> Option<Netns> {
    let namespace = wire();
    let arguments = [
        "link",
        "add",
        "bond0",
        "type",
        "bond",
        "mode",
        "active-backup",
    ];
    let made = namespace.enter(|| Command::new("ip").args(arguments).output().unwrap());
    if !made.status.success() {
        say_skipped("this kernel has no bonds");
        return None;
    }
    namespace.command("ip", &["link", "set", "bond0", "addrgenmode", "none"]);
    namespace.command("ip", &["link", "set", NEAR, "down"]);
    namespace.command("ip", &["link", "set", NEAR, "master", "bond0"]);
    namespace.command("ip", &["link", "set", "bond0", "up"]);
    Some(namespace)
}

/// A bond has its parts run a program of the driver's mode, by their own numbers.
#[test]
fn what_comes_in_by_a_bond_is_counted_once_on_it_and_once_on_its_part() {
    let Some(namespace) = bond() else { return };
    for xdp in [Some(XdpMode::Native), Some(XdpMode::Skb), None] {
        for devices in ["bond0", "*0"] {
            let mut follower = follow(&namespace, devices, xdp);
            let mut of = |device| counts(&mut follower, device).map(|counts| sum(&counts[0]));
            within(SHOWN, || {
                // The bond takes a moment to choose its part.
                send_syn(&namespace, FAR);
                require(of("bond0") > Some(0), "nothing comes in")
            });
            let before = of("bond0").unwrap();
            let part_before = of(NEAR);
            send_syn(&namespace, FAR);
            within(SHOWN, || {
                let seen = of("bond0").unwrap() - before;
                require(seen == 1, format!("{xdp:?} {devices}: {seen}"))
            });
            assert_eq!(
                of(NEAR),
                part_before.map(|before| before + 1),
                "{xdp:?} {devices}"
            );
        }
    }
}

/// Bonds have LRO, whatever their parts have.
#[test]
fn what_a_network_card_puts_together_it_goes_on_putting_together() {
    let Some(namespace) = bond() else { return };
    let index = interface(&namespace, "bond0").unwrap().index;
    let merging = || {
        let offloads = namespace.enter(|| Offloads::open().unwrap().merging(index));
        offloads.unwrap()
    };
    let before = merging();
    assert!(!before.is_empty(), "bond0 has no LRO");
    let follower = follow(&namespace, "bond0", Some(XdpMode::Skb));
    let states = follower.states();
    let seen = states[0].outcome.as_ref().unwrap();
    assert!(
        matches!(seen.means[0], Means::Tcx | Means::Clsact),
        "{seen:?}"
    );
    let why = seen.without_xdp.as_ref().unwrap();
    assert!(why.contains("ethtool -K bond0 rx-lro off"), "{why}");
    assert_eq!(merging(), before);
}
