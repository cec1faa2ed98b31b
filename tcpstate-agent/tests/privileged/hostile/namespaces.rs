//! Network namespaces that come and go as fast as they can be made.

use std::{
    fs,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::listen_on;
use crate::{
    agent::Agent,
    harness::{DoneOnDrop, Netns, make_namespace},
};

const ATTACK: Duration = Duration::from_secs(20);
/// That many in a second, at most.
const RATE: u32 = 50;
const PORT: u16 = 24_912;

/// CPU time that a process has used.
fn cpu_time(process: rustix::process::Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // utime and stime, the 14th and 15th of all.
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u32>().unwrap())
        .sum();
    let a_second = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap();
    Duration::from_secs(1) * ticks / a_second
}

#[test]
fn namespaces_that_come_fifty_times_a_second_take_no_more_than_the_budget() {
    let namespace = Netns::new();
    let listener = listen_on(&namespace, Ipv4Addr::LOCALHOST, PORT..=PORT);
    let agent = Agent::start();
    let (done, made) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let _done = DoneOnDrop(&done);
        let begun = Instant::now();
        scope.spawn(|| {
            let begun = Instant::now();
            while !done.load(Ordering::Relaxed) {
                make_namespace();
                let number = made.fetch_add(1, Ordering::Relaxed) + 1;
                let due = Duration::from_secs(1) / RATE * number;
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        });
        let before = cpu_time(agent.pid());
        thread::sleep(ATTACK);
        let used = cpu_time(agent.pid()).saturating_sub(before);
        let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
        // The budget is 2 %, in debt after a start; what is not in it is small.
        assert!(share < 0.08, "{:.1} % of a core", share * 100.0);
        let page = agent.page();
        let sockets = page.sum("tcpstate_sockets", &[("state", "listen")]);
        assert!(sockets >= 1, "{sockets} listen");
    });
    let made = made.into_inner();
    assert!(made >= 100, "only {made} were made");
    let port = PORT.to_string();
    let page = agent.page();
    let shown = page.samples("tcpstate_listener_accept_queue", &[("port", &*port)]);
    assert_eq!(shown.len(), 1, "{shown:?}");
    drop(listener);
}
