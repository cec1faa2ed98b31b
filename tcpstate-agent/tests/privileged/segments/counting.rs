//! Segments on a wire are counted, every one and in every way there is.

use std::time::Duration;

use tcpstate_common::{Direction, Skipped};

use super::{
    packets::{IPV4, IPV6, frame, ipv4, ipv6, tcp},
    wire::{FAR, NEAR, Sender, follow, near, passed, sum, wire},
};
use crate::harness::{require, within};
use tcpstate_agent::{
    collect::segments::{Means, Seen},
    kernel::XdpMode,
};

const SHOWN: Duration = Duration::from_secs(30);

/// Sends every combination over IPv4 and IPv6 in both directions, and some that is no segment.
fn every_combination_is_counted(xdp: Option<XdpMode>) {
    let namespace = wire();
    let mut follower = follow(&namespace, NEAR, xdp);
    let states = follower.states();
    let means = states[0].outcome.as_ref().unwrap().means;
    match xdp {
        Some(mode) => assert_eq!(means[0], Means::Xdp(mode), "{states:?}"),
        None => assert!(matches!(means[0], Means::Tcx | Means::Clsact), "{states:?}"),
    }
    let before = passed(&namespace, NEAR);
    for end in [NEAR, FAR] {
        let sender = Sender::new(&namespace, end);
        for flags in 0..=u8::MAX {
            sender.send(&frame(&[IPV4], &ipv4(6, 0, 0, &tcp(flags))));
            sender.send(&frame(&[IPV6], &ipv6(&[], 6, &tcp(flags))));
        }
        sender.send(&frame(&[IPV4], &ipv4(17, 0, 0, &[0; 20])));
        sender.send(&frame(&[0x0806], &[0; 46]));
        sender.send(&frame(&[IPV4], &ipv4(6, 7, 0, &[0; 20])));
        sender.send(&frame(&[IPV4], &[0x45; 10]));
    }
    for direction in Direction::ALL {
        within(SHOWN, || {
            let counts = near(&mut follower, direction);
            require(
                sum(&counts) == 516,
                format!("{direction:?}: {}", sum(&counts)),
            )
        });
        let counts = near(&mut follower, direction);
        assert_eq!(counts.by_flags, [2; 256], "{direction:?}");
        let skipped = Skipped::ALL.map(|reason| counts.skipped[reason.slot()]);
        assert_eq!(skipped, [2, 1, 1], "{direction:?}");
        let passed = passed(&namespace, NEAR)[direction.slot()] - before[direction.slot()];
        assert_eq!(
            sum(&counts),
            passed,
            "{direction:?}: what the interface passed"
        );
    }
}

#[test]
fn every_combination_of_flags_is_counted_by_xdp_in_the_network_stack() {
    every_combination_is_counted(Some(XdpMode::Skb));
}

#[test]
fn every_combination_of_flags_is_counted_by_xdp_in_the_driver() {
    every_combination_is_counted(Some(XdpMode::Native));
}

#[test]
fn every_combination_of_flags_is_counted_by_tc_alone() {
    every_combination_is_counted(None);
}

/// Tagged frames, as they come from a trunk. The kernel may have the tag beside the packet or in
/// it.
#[test]
fn segments_in_vlans_are_counted() {
    let namespace = wire();
    for xdp in [Some(XdpMode::Skb), Some(XdpMode::Native), None] {
        let mut follower = follow(&namespace, NEAR, xdp);
        for end in [NEAR, FAR] {
            let sender = Sender::new(&namespace, end);
            let segment = ipv4(6, 0, 0, &tcp(0x02));
            sender.send(&frame(&[0x8100, IPV4], &segment));
            sender.send(&frame(&[0x88a8, 0x8100, IPV4], &segment));
        }
        for direction in Direction::ALL {
            within(SHOWN, || {
                let counts = near(&mut follower, direction);
                require(
                    counts.by_flags[2] == 2 && sum(&counts) == 2,
                    format!("{xdp:?} {direction:?}: {:?}", counts.skipped),
                )
            });
        }
    }
}

/// Frames that do not fit into a page lie in pieces. Before Linux 5.18 drivers refuse XDP with such
/// an MTU; then TC sees them, and that is said.
#[test]
fn jumbo_frames_are_counted_in_the_driver_or_it_is_said_why_not() {
    let namespace = wire();
    for end in [NEAR, FAR] {
        namespace.command("ip", &["link", "set", end, "mtu", "9000"]);
    }
    let mut follower = follow(&namespace, NEAR, Some(XdpMode::Native));
    let states = follower.states();
    let Seen {
        means, without_xdp, ..
    } = states[0].outcome.as_ref().unwrap();
    match means[0] {
        Means::Xdp(XdpMode::Native) => assert_eq!(*without_xdp, None),
        Means::Tcx | Means::Clsact => {
            let why = without_xdp.as_ref().unwrap();
            assert!(why.contains("MTU of 9000"), "{why}");
        }
        Means::Xdp(XdpMode::Skb) => panic!("{states:?}"),
    }
    let segment = [tcp(0x18), vec![7; 8_000]].concat();
    let sender = Sender::new(&namespace, FAR);
    for _ in 0..10 {
        sender.send(&frame(&[IPV4], &ipv4(6, 0, 0, &segment)));
    }
    within(SHOWN, || {
        let counts = near(&mut follower, Direction::Ingress);
        require(
            counts.by_flags[0x18] == 10 && sum(&counts) == 10,
            format!("{means:?}: {:?}", counts.skipped),
        )
    });
}
