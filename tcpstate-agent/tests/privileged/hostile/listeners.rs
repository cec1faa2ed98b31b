//! Listeners without end.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use super::listen_on;
use crate::{
    actor::{Actor, Duty},
    harness::{Netns, require, watch, within},
};
use tcpstate_common::TcpState;

/// More than there once was room for, by two processes, of which each may open 20,000 files in places.
const MANY: u16 = 20_000;
const OF_EACH: u16 = MANY / 2;
const FIRST: u16 = 1024;
const LAST: u16 = 24_911;
/// Looking for owners among so many descriptors takes its time, within the budget.
const PATIENCE: Duration = Duration::from_mins(3);

#[test]
fn twenty_thousand_listeners_hide_none_that_comes_later_and_each_is_shown_or_counted() {
    let (flooded, quiet) = (Netns::new(), Netns::new());
    let flood = Actor::start_all(
        &flooded,
        [("flood-1", FIRST), ("flood-2", FIRST + OF_EACH)].map(|(name, port)| {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 7), port));
            let count = OF_EACH;
            (name, Duty::ListenOnMany { address, count })
        }),
    );
    let watch = watch();
    let told = |of_many: usize, of_one: usize| {
        within(PATIENCE, || {
            let all = watch.listeners().ok_or("listeners cannot be told")?;
            let of = |namespace: &Netns| {
                let inode = namespace.inode();
                let of = all.iter().map(|owned| &owned.listener);
                of.filter(|listener| listener.place.namespace == inode)
                    .count()
            };
            let found = (of(&flooded), of(&quiet));
            require(found == (of_many, of_one), format!("{found:?} are told"))
        });
    };
    told(MANY.into(), 0);
    // Behind all of them, and in trouble.
    let one = listen_on(&quiet, Ipv4Addr::LOCALHOST, LAST..=LAST);
    rustix::net::listen(&one[0], 1).unwrap();
    let address = one[0].local_addr().unwrap();
    let _waiting: Vec<_> = quiet.enter(|| {
        let patience = Duration::from_millis(300);
        let each = (0..4).filter_map(|_| TcpStream::connect_timeout(&address, patience).ok());
        each.collect()
    });
    told(MANY.into(), 1);
    within(PATIENCE, || {
        let reading = watch.read().map_err(|error| error.to_string())?;
        let sockets = reading.sockets.ok_or("nothing is counted")?;
        let listening = sockets.in_state(TcpState::Listen);
        require(listening > u64::from(MANY), format!("{listening} listen"))?;
        let listeners = reading.listeners.as_ref().ok_or("no listeners")?;
        let named = || listeners.series.iter().filter_map(|(key, _)| key.address);
        let count = named().count();
        require(count == 200, format!("{count} have series"))?;
        require(
            named().any(|(_, port)| port == LAST),
            "the one in trouble is not shown",
        )?;
        require(
            listeners.folded >= u64::from(MANY) - 200,
            format!("{} are counted as folded", listeners.folded),
        )
    });
    drop((flood, one));
}
