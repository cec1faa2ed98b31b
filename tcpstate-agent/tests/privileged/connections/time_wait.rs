//! TIME_WAIT by destination, and its limit.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{Cable, FAR, FAR6, close_from_client, connect, ip, listener, set, ss_time_wait};
use crate::harness::{Netns, SETTINGS, load, require, watch, within};
use tcpstate_agent::{
    collect::counters::KernelCounter,
    engine::{OutgoingReading, Watch, WatchSettings},
};

fn shown(watch: &Watch) -> OutgoingReading {
    watch.read().unwrap().outgoing.clone().unwrap_or_default()
}

/// Makes `count` connections to the far end and closes them from here.
fn pass_through(cable: &Cable, to: SocketAddr, count: usize) {
    let (server, to) = listener(&cable.far, &to.to_string());
    for _ in 0..count {
        let client = connect(&cable.near, to).unwrap();
        close_from_client(client, server.accept().unwrap().0);
    }
}

#[test]
fn outgoing_ones_are_grouped_by_destination_as_ss_shows_them() {
    let cable = Cable::new();
    for (address, port, count) in [(FAR, 7100, 3), (FAR, 7101, 5), (FAR6, 7100, 7)] {
        pass_through(&cable, SocketAddr::new(ip(address), port), count);
    }
    // Those that came in are none of them.
    let (server, here) = listener(&cable.near, "10.7.0.1:7102");
    for _ in 0..4 {
        let client = connect(&cable.far, here).unwrap();
        close_from_client(server.accept().unwrap().0, client);
    }
    let truth = ss_time_wait(&cable.near, here.port());
    assert_eq!(truth.values().sum::<u64>(), 15);
    let watch = watch();
    within(Duration::from_secs(30), || {
        let found: BTreeMap<SocketAddr, u64> = shown(&watch)
            .series
            .time_wait
            .into_iter()
            .filter_map(|(remote, count)| Some((remote?, count)))
            .filter(|(remote, _)| truth.contains_key(remote) || remote.ip() == ip("10.7.0.1"))
            .collect();
        let now = ss_time_wait(&cable.near, here.port());
        require(found == now, format!("{found:?} is shown, {now:?} is true"))
    });
}

#[test]
fn those_beyond_the_limit_are_shown_as_other_and_counted() {
    // More than scrapes by the tests before leave behind at one destination, and fewer than a
    // small machine allows.
    const MOST: usize = 900;
    const SECOND: usize = 700;

    let cable = Cable::new();
    for (port, count) in [
        (7200, MOST),
        (7201, SECOND),
        (7202, 3),
        (7203, 2),
        (7204, 1),
    ] {
        pass_through(&cable, SocketAddr::new(ip(FAR), port), count);
    }
    let settings = WatchSettings {
        destinations_top: 2,
        ..SETTINGS
    };
    let watch = Watch::start(load(512 * 1024), settings).unwrap();
    assert!(watch.wait_until_ready(Duration::from_mins(1)));
    let reading = within(Duration::from_secs(30), || {
        let reading = shown(&watch);
        let all: u64 = reading.series.time_wait.values().sum();
        let made = (MOST + SECOND + 6) as u64;
        require(all >= made, format!("{:?}", reading.series.time_wait))?;
        Ok(reading)
    });
    let series = &reading.series.time_wait;
    assert_eq!(series.len(), 3, "{series:?}");
    let shown_of = |port| series.get(&Some(SocketAddr::new(ip(FAR), port))).copied();
    let greatest = [shown_of(7200), shown_of(7201)];
    assert_eq!(
        greatest,
        [MOST, SECOND].map(|count| Some(count as u64)),
        "{series:?}"
    );
    // Elsewhere on the machine there may be some too.
    assert!(series[&None] >= 6, "{series:?}");
    assert!(reading.series.time_wait_folded >= 3);
    let again = shown(&watch);
    let more = again.time_wait_folded - reading.time_wait_folded;
    assert_eq!(more, again.series.time_wait_folded);
}

#[test]
fn at_the_limit_of_a_namespace_connections_are_closed_without_time_wait_and_counted() {
    let namespace = Netns::new();
    set(&namespace, "tcp_max_tw_buckets", "4");
    let (server, to) = listener(&namespace, "127.0.0.1:7300");
    let watch = watch();
    let overflows = |watch: &Watch| {
        let counters = watch.read().unwrap().kernel_counters;
        counters.get(KernelCounter::TimeWaitOverflow).unwrap()
    };
    let before = within(Duration::from_secs(30), || {
        let reading = watch.read().unwrap();
        let is_counted = reading.by_namespace.contains_key(&namespace.inode());
        require(is_counted, "the namespace is not counted yet")?;
        Ok(overflows(&watch))
    });
    for _ in 0..10 {
        let client = connect(&namespace, to).unwrap();
        close_from_client(client, server.accept().unwrap().0);
    }
    assert_eq!(ss_time_wait(&namespace, to.port()).values().sum::<u64>(), 4);
    within(Duration::from_secs(30), || {
        let part = shown(&watch).buckets_used;
        require(part == Some(1.0), format!("{part:?} of the buckets"))?;
        let more = overflows(&watch) - before;
        require(more == 6, format!("{more} overflows are shown, 6 are true"))
    });
}
