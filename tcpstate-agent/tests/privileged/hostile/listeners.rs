//! Listeners without end.

use std::{net::Ipv4Addr, time::Duration};

use super::{listen_on, raise_descriptors};
use crate::harness::{Netns, require, watch, within};
use tcpstate_common::TcpState;

/// More than there once was room for, and fewer than the 20,000 files that a process may open in places.
const MANY: u16 = 18_000;
const LAST: u16 = 24_911;

#[test]
fn eighteen_thousand_listeners_hide_no_other_and_each_is_shown_or_counted() {
    raise_descriptors();
    let (flooded, quiet) = (Netns::new(), Netns::new());
    let many = listen_on(&flooded, Ipv4Addr::new(127, 0, 0, 7), 1024..1024 + MANY);
    // Behind all of them.
    let one = listen_on(&quiet, Ipv4Addr::LOCALHOST, LAST..=LAST);
    let watch = watch();
    within(Duration::from_mins(2), || {
        let all = watch.listeners().ok_or("listeners cannot be told")?;
        let of = |namespace: &Netns| {
            let inode = namespace.inode();
            let of = all.iter().map(|owned| &owned.listener);
            of.filter(|listener| listener.place.namespace == inode)
                .count()
        };
        let (of_many, of_one) = (of(&flooded), of(&quiet));
        require(
            of_many == usize::from(MANY) && of_one == 1,
            format!("{of_many} and {of_one} are told"),
        )
    });
    within(Duration::from_mins(2), || {
        let reading = watch.read().map_err(|error| error.to_string())?;
        let sockets = reading.sockets.ok_or("nothing is counted")?;
        let listening = sockets.in_state(TcpState::Listen);
        require(listening > u64::from(MANY), format!("{listening} listen"))?;
        let listeners = reading.listeners.as_ref().ok_or("no listeners")?;
        let named = listeners
            .series
            .iter()
            .filter(|(key, _)| key.address.is_some());
        let named = u64::try_from(named.count()).unwrap();
        require(named == 200, format!("{named} have series"))?;
        require(
            listeners.folded >= u64::from(MANY) - 200,
            format!("{} are counted as folded", listeners.folded),
        )
    });
    drop((many, one));
}
