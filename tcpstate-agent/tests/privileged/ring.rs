//! The account of the ring buffer: emitted = decoded + lost, and few wake-ups.

use std::{fs, net::TcpListener, time::Duration};

use socket2::{Domain, Socket, Type};
use tcpstate_agent::{
    bpf::{EventRing, Flow},
    watch::Watch,
};
use tcpstate_common::EventCounters;

use crate::harness::{Netns, load, require, watch, watch_with_ring, within};

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

/// What became of at least `due` records, once all of them have been accounted for.
fn account(watch: &Watch, due: u64) -> tcpstate_agent::watch::Events {
    within(Duration::from_secs(5), || {
        let events = watch.read().unwrap().events.unwrap();
        let emitted = events.kernel.emitted;
        if emitted >= due && emitted == events.decoded + events.lost() {
            Ok(events)
        } else {
            Err(format!("{events:?}"))
        }
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
    assert!(counted.emitted >= 1_000, "{counted:?}");
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
    within(Duration::from_secs(5), || {
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
    reset_connections(&namespace, 20_000);
    let events = account(&watch, 40_000);
    assert!(events.decoded > 0, "everything was lost: {events:?}");
    assert_eq!(events.malformed, 0);
}

#[test]
fn the_default_ring_loses_nothing_and_wakes_the_agent_far_less_than_once_an_event() {
    let namespace = Netns::new();
    let watch = watch();
    let before = wake_ups();
    reset_connections(&namespace, 20_000);
    let events = account(&watch, 40_000);
    let woken = wake_ups() - before;
    assert_eq!(events.lost(), 0, "{events:?}");
    assert!(
        woken < events.decoded / 100,
        "{woken} wake-ups for {} events",
        events.decoded
    );
}

/// How often the thread that reads the ring has been woken.
fn wake_ups() -> u64 {
    let status = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path())
        .find(|task| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "ts-events")
        })
        .map(|task| fs::read_to_string(task.join("status")).unwrap())
        .expect("no thread reads the ring");
    status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok())
        .expect("the kernel does not count context switches")
}
