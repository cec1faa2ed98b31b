//! Programs that others take off an interface.

use std::{fs, time::Duration};

use serde_json::Value;
use tcpstate_agent::kernel::XdpMode;
use tcpstate_common::Direction;

use super::{
    packets::{IPV4, frame, ipv4, tcp},
    wire::{FAR, NEAR, Sender, follow, near, wire},
};
use crate::harness::{Netns, require, within};

/// It is asked every 30 seconds whether they are there.
const NOTICED: Duration = Duration::from_mins(1);

/// The numbers of the links to an interface that this process holds.
fn links(namespace: &Netns, device: &str) -> Vec<u64> {
    let text = namespace.command("ip", &["-json", "link", "show", "dev", device]);
    let shown: Value = serde_json::from_str(&text).unwrap();
    let index = shown[0]["ifindex"].as_u64();
    let files = fs::read_dir("/proc/self/fdinfo").unwrap();
    // That of the folder itself is closed again by now.
    let texts = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    let number = |text: &str, name: &str| -> Option<u64> {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    texts
        .filter(|text| index.is_some() && number(text, "ifindex:") == index)
        .filter_map(|text| number(&text, "link_id:"))
        .collect()
}

#[test]
fn a_program_that_somebody_has_detached_is_attached_again_and_the_counters_go_on() {
    let namespace = wire();
    let mut follower = follow(&namespace, NEAR, Some(XdpMode::Skb));
    let sender = Sender::new(&namespace, FAR);
    let syn = frame(&[IPV4], &ipv4(6, 0, 0, &tcp(0x02)));
    let mut counted = |at_least: u64| {
        within(NOTICED, || {
            sender.send(&syn);
            namespace.enter(|| follower.follow().unwrap());
            let found = near(&mut follower, Direction::Ingress).by_flags[2];
            require(found >= at_least, format!("{found} SYNs"))?;
            Ok(found)
        })
    };
    let before = counted(1);
    let first = links(&namespace, NEAR);
    assert!(!first.is_empty());
    for link in &first {
        namespace.command("bpftool", &["link", "detach", "id", &link.to_string()]);
    }
    assert!(links(&namespace, NEAR).is_empty());
    let after = counted(before + 5);
    assert!(after > before);
    let second = links(&namespace, NEAR);
    assert_eq!(second.len(), first.len(), "{second:?}");
}
