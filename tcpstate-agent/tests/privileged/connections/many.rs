//! More destinations than there is room for.

use std::{fs, net::SocketAddr, time::Duration};

use super::{close_from_client, listener, look_at, set};
use crate::harness::{Netns, require, scaled, watch, within};
use tcpstate_agent::collect::outgoing::MAX_DESTINATIONS;

/// Connections to one destination among them.
const FAVOURITE: u32 = 200;

#[test]
fn of_20_000_destinations_none_is_lost_and_the_one_that_matters_is_exact() {
    let namespace = Netns::new();
    set(&namespace, "tcp_max_tw_buckets", "200000");
    let (server, _) = listener(&namespace, "0.0.0.0:7500");
    let destinations = scaled(20_000);
    let favourite: SocketAddr = "127.99.0.1:7500".parse().unwrap();
    let mut made = 0_u64;
    namespace.enter(|| {
        for number in 0..destinations {
            let [_, a, b, c] = number.to_be_bytes();
            let to = SocketAddr::from(([127, 1 + a, b, c], 7500));
            let every = destinations / FAVOURITE;
            let more = (every > 0 && number % every == 0).then_some(favourite);
            for to in [Some(to), more].into_iter().flatten() {
                let client = std::net::TcpStream::connect(to).unwrap();
                close_from_client(client, server.accept().unwrap().0);
                made += 1;
            }
        }
    });
    let favourites = made - u64::from(destinations);
    let watch = watch();
    let in_time_wait = || {
        let text =
            namespace.enter(|| fs::read_to_string("/proc/thread-self/net/sockstat").unwrap());
        let (_, rest) = text.split_once(" tw ").unwrap();
        rest.split_whitespace()
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let (found, known) = within(Duration::from_mins(1), || {
        let found = look_at(&watch, &namespace);
        let in_time_wait = in_time_wait();
        assert_eq!(in_time_wait, made, "some have ended meanwhile");
        let known: u64 = found.ways.iter().map(|way| u64::from(way.time_wait)).sum();
        let sum = known + found.other_time_wait;
        require(sum == made, format!("{sum} are found of {made}"))?;
        let known = u64::try_from(found.ways.len()).unwrap() + found.forgotten;
        Ok((found, known))
    });
    let all = u64::from(destinations) + 1;
    assert!(known <= MAX_DESTINATIONS as u64 && known <= all);
    // Each of the others has one socket.
    assert_eq!(found.unplaced, all - known);
    assert!(found.unplaced >= all.saturating_sub(MAX_DESTINATIONS as u64));
    let way = found.ways.iter().find(|way| way.remote == favourite);
    let way = way.expect("the favourite is not among those that are known");
    assert_eq!(
        (u64::from(way.held), u64::from(way.time_wait)),
        (favourites, favourites)
    );
    // Its part is shown, and the others have one together.
    let reading = watch.read().unwrap();
    let used = &reading.outgoing.as_ref().unwrap().series.used;
    let part = used[&Some(favourite)];
    let ports = f64::from(found.ports.unwrap());
    assert!((part - f64::from(way.held) / ports).abs() < 1e-9, "{part}");
    assert!(used[&None] < part);
}
