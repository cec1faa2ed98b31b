//! Memory after a peak.

use std::{net::Ipv4Addr, time::Duration};

use super::{listen_on, raise_descriptors};
use crate::{
    agent::Agent,
    harness::{Netns, require, within},
};

/// Their page is some megabytes.
const MANY: u16 = 8_000;
/// It is given back twice a minute.
const GIVEN_BACK: Duration = Duration::from_secs(75);
/// What remembers for hours which labels had series, lest they count as new, and their totals.
const REMEMBERED: u64 = 2 << 20;

#[test]
fn what_a_peak_took_is_given_back_within_a_minute() {
    raise_descriptors();
    let namespace = Netns::new();
    let agent = Agent::start_with(&["--listeners.top", "20000", "--series.burst", "1000000"]);
    // With the buffers of a page.
    for _ in 0..3 {
        agent.metrics();
    }
    std::thread::sleep(Duration::from_secs(2));
    let rest = agent.anonymous_bytes();
    let many = listen_on(&namespace, Ipv4Addr::new(127, 0, 0, 8), 1024..1024 + MANY);
    let peak = within(Duration::from_mins(2), || {
        let page = agent.page();
        let shown = page.samples(
            "tcpstate_listener_accept_queue",
            &[("address", "127.0.0.8")],
        );
        require(
            shown.len() == usize::from(MANY),
            format!("{} listeners are shown", shown.len()),
        )?;
        Ok(agent.anonymous_bytes())
    });
    assert!(
        peak > 4 * (rest + REMEMBERED),
        "a peak of {peak} above {rest} is none"
    );
    drop(many);
    within(GIVEN_BACK, || {
        // Now and then somebody scrapes.
        agent.metrics();
        std::thread::sleep(Duration::from_secs(5));
        let now = agent.anonymous_bytes();
        require(
            now <= rest + rest / 5 + REMEMBERED,
            format!("{now} bytes after {peak}, {rest} at rest"),
        )
    });
}
