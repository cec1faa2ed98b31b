//! Memory after a peak.

use std::{net::Ipv4Addr, time::Duration};

use super::{listen_on, raise_descriptors};
use crate::{
    agent::Agent,
    harness::{Netns, require, within},
};

/// Their page is some megabytes.
const MANY: u16 = 8_000;
/// It is given back once a minute.
const GIVEN_BACK: Duration = Duration::from_mins(3);

#[test]
fn most_of_what_a_peak_took_is_given_back() {
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
        peak > rest + rest / 2,
        "a peak of {peak} above {rest} is none"
    );
    drop(many);
    within(GIVEN_BACK, || {
        // Now and then somebody scrapes.
        agent.metrics();
        std::thread::sleep(Duration::from_secs(5));
        let now = agent.anonymous_bytes();
        // The label sets that had series are remembered for longer, lest they count as new.
        require(
            now <= peak / 2,
            format!("{now} bytes after {peak}, {rest} at rest"),
        )
    });
}
