//! What is left of connections that were closed: FIN_WAIT2 of two kinds, and orphans.

use std::{fs, net::Shutdown, time::Duration};

use tcpstate_common::TcpState;

use super::{Cable, connect, listener};
use crate::harness::{Netns, require, watch, within};

/// A value of the line `TCP:` of /proc/net/sockstat.
fn sockstat(namespace: &Netns, name: &str) -> u64 {
    let text = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/sockstat").unwrap());
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == name).unwrap();
    words.next().unwrap().parse().unwrap()
}

#[test]
fn full_sockets_and_minisockets_in_fin_wait2_are_told_apart() {
    let namespace = Netns::new();
    let (server, to) = listener(&namespace, "127.0.0.1:7400");
    let mut kept = Vec::new();
    for number in 0..7 {
        let client = connect(&namespace, to).unwrap();
        kept.push(server.accept().unwrap().0);
        client.shutdown(Shutdown::Write).unwrap();
        if number < 3 {
            kept.push(client);
        }
    }
    let watch = watch();
    within(Duration::from_secs(30), || {
        let (ss, minisockets) = (
            namespace.ss().in_state(TcpState::FinWait2),
            sockstat(&namespace, "tw"),
        );
        require((ss, minisockets) == (7, 4), format!("{ss} {minisockets}"))?;
        let reading = watch.read().unwrap();
        let found = reading.by_namespace.get(&namespace.inode());
        let found = found.ok_or("the namespace is not counted")?;
        let minis: u64 = found.minisockets.fin_wait2.iter().sum();
        let all = found.sockets.in_state(TcpState::FinWait2);
        require(
            (all, minis) == (7, 4),
            format!("{all} and {minis} are shown"),
        )
    });
}

#[test]
fn orphans_are_counted_for_the_whole_host() {
    let cable = Cable::new();
    let elsewhere = Netns::new();
    let (server, to) = listener(&cable.far, "10.7.0.2:7401");
    let clients: Vec<_> = (0..30)
        .map(|_| (connect(&cable.near, to).unwrap(), server.accept().unwrap()))
        .collect();
    cable.cut();
    let before = sockstat(&elsewhere, "orphan");
    // The other ends are kept open.
    let (clients, _servers): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    drop(clients);
    let watch = watch();
    within(Duration::from_secs(30), || {
        let truth = sockstat(&elsewhere, "orphan");
        let shown = watch.read().unwrap().orphans;
        require(truth >= before + 30, format!("{truth} after {before}"))?;
        require(
            shown == Some(truth),
            format!("{shown:?} are shown, {truth} are true"),
        )
    });
}
