//! The account of the ring buffer: emitted = decoded + lost, and few wake-ups.

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcpstate_agent::{
    engine::Watch,
    kernel::{EventRing, Flow},
};
use tcpstate_common::EventCounters;

use crate::harness::{Netns, load, require, scaled, watch, watch_with_ring, within};

/// Connections that are reset, which the default mask streams: both ends of each.
fn reset_connections(namespace: &Netns, count: u32) {
    namespace.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..count {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.connect(&address.into()).unwrap();
            let accepted = listener.accept().unwrap();
            client.set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            drop(accepted);
        }
    });
}

/// What became of at least `due` records, once all of them have been accounted for. There is none
/// of a transition that the kernel did not show to the program.
fn account(watch: &Watch, due: u64) -> tcpstate_agent::engine::Events {
    within(Duration::from_secs(15), || {
        let reading = watch.read().unwrap();
        let (events, missed) = (reading.events.unwrap(), reading.missed.unwrap());
        let emitted = events.kernel.emitted;
        require(
            emitted + missed >= due && emitted == events.decoded + events.lost(),
            format!("{events:?}, {missed} missed, {due} due"),
        )?;
        Ok(events)
    })
}

#[test]
fn with_a_ring_too_small_emitted_is_decoded_plus_lost() {
    let namespace = Netns::new();
    // A page: room for 56 records. Nobody reads it until it has long been full.
    let mut loaded = load(4096);
    let (flow, ring) = (
        loaded.flow.as_ref().unwrap(),
        loaded.events.as_mut().unwrap(),
    );
    reset_connections(&namespace, 500);
    let mut taken = 0;
    let counted = settle(flow, ring, &mut taken);
    let missed = flow.missed().unwrap();
    assert!(counted.emitted + missed >= 1_000, "{counted:?}, {missed}");
    assert!(counted.lost > 0, "nothing was lost: {counted:?}");
    assert!(taken > 0, "everything was lost: {counted:?}");
    let read = ring.records_read();
    assert_eq!((read.decoded, read.malformed), (taken, 0));

    // Emptied, it takes records again.
    let lost = counted.lost;
    reset_connections(&namespace, 10);
    assert_eq!(settle(flow, ring, &mut taken).lost, lost);
    assert!(taken >= 20);
}

/// Empties the ring until the account is even: a reset of someone else's may come in between.
fn settle(flow: &Flow, ring: &mut EventRing, taken: &mut u64) -> EventCounters {
    within(Duration::from_secs(15), || {
        assert_eq!(ring.drain(|_| *taken += 1), None);
        let counted = flow.events().unwrap();
        let accounted = ring.records_read().decoded + counted.lost;
        require(
            counted.emitted == accounted,
            format!("{accounted} of {counted:?}"),
        )?;
        Ok(counted)
    })
}

#[test]
fn a_watch_accounts_for_every_record_however_small_its_ring() {
    let namespace = Netns::new();
    let watch = watch_with_ring(4096);
    let connections = scaled(20_000);
    reset_connections(&namespace, connections);
    let events = account(&watch, 2 * u64::from(connections));
    assert!(events.decoded > 0, "everything was lost: {events:?}");
    assert_eq!(events.malformed, 0);
}

#[test]
fn the_default_ring_loses_nothing_and_wakes_the_agent_far_less_than_once_an_event() {
    let namespace = Netns::new();
    let watch = watch();
    let connections = scaled(20_000);
    let mut before = account(&watch, 0);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (woken_before, start) = (wake_ups(), Instant::now());
        reset_connections(&namespace, connections);
        let due = before.kernel.emitted + 2 * u64::from(connections);
        let events = account(&watch, due);
        let woken = wake_ups() - woken_before;
        // It looks ten times a second, whatever happens.
        let seconds = start.elapsed().as_secs() + 1;
        let decoded = events.decoded - before.decoded;
        assert!(
            woken < decoded / 100 + 10 * seconds,
            "{woken} wake-ups for {decoded} events in {seconds} s"
        );
        if events.lost() == before.lost() {
            return;
        }
        // At this pace the ring is full in the 140 ms that a busy host may keep the CPU from the
        // thread that empties it.
        assert!(attempts < 3, "some are lost each time: {events:?}");
        before = events;
    }
}

/// How often the thread that reads the ring has been woken.
fn wake_ups() -> u64 {
    // A thread gives itself its name, which may take a moment on a busy host.
    let status = within(Duration::from_secs(15), || {
        let task = fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| task.unwrap().path())
            .find(|task| {
                fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "ts-ring")
            })
            .ok_or("no thread reads the ring")?;
        Ok(fs::read_to_string(task.join("status")).unwrap())
    });
    status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok())
        .expect("the kernel does not count context switches")
}
