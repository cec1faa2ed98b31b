//! Signals that are not meant for it.

use std::time::Duration;

use rustix::process::Signal;

use crate::agent::Agent;

#[test]
fn a_terminal_that_is_gone_ends_no_agent() {
    let agent = Agent::start();
    for _ in 0..3 {
        agent.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(agent.get("/-/healthy").0, 200);
    }
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("stopped"), "{}", ended.stderr);
}
