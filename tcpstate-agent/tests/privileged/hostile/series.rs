//! Labels without end.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::listen_on;
use crate::{
    agent::Agent,
    harness::{Netns, require, within},
    page::Page,
};

const ACCEPT_QUEUE: &str = "tcpstate_listener_accept_queue";
/// Series of a listener.
const CHARGE: usize = 17;
const STAYING: u16 = 24_921;
const SHOWN: Duration = Duration::from_mins(2);

/// The ports that have series, and the addresses.
fn labels(page: &Page) -> BTreeSet<(String, String, String)> {
    let samples = page.samples(ACCEPT_QUEUE, &[]);
    let named = samples
        .into_iter()
        .filter(|sample| !sample.label("port").is_empty());
    named
        .map(|sample| {
            let label = |name: &str| sample.label(name).to_owned();
            (label("process"), label("address"), label("port"))
        })
        .collect()
}

fn is_shown(page: &Page, port: u16) -> bool {
    let port = port.to_string();
    !page.samples(ACCEPT_QUEUE, &[("port", &*port)]).is_empty()
}

#[test]
fn listeners_that_move_all_the_time_make_no_more_series_than_may_be_new() {
    const ROUNDS: u16 = 12;
    const EACH: u16 = 50;
    const ROOM: usize = 60;

    let namespace = Netns::new();
    let staying = listen_on(&namespace, Ipv4Addr::LOCALHOST, STAYING..=STAYING);
    let burst = (ROOM * CHARGE).to_string();
    let agent = Agent::start_with(&[
        "--listeners.top",
        "1000",
        "--series.burst",
        &burst,
        "--series.per-hour",
        "0",
    ]);
    within(SHOWN, || {
        require(is_shown(&agent.page(), STAYING), "what stays is not shown")
    });
    let mut seen = BTreeSet::new();
    for round in 0..ROUNDS {
        let from = 30_000 + round * EACH;
        let moving = listen_on(&namespace, Ipv4Addr::LOCALHOST, from..from + EACH);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let page = agent.page();
            seen.extend(labels(&page));
            assert!(
                is_shown(&page, STAYING),
                "what stays is gone in round {round}"
            );
            thread::sleep(Duration::from_millis(300));
        }
        drop(moving);
    }
    assert!(seen.len() > ROOM / 2, "only {} were ever shown", seen.len());
    assert!(seen.len() <= ROOM, "{} label sets", seen.len());
    let page = agent.page();
    let folded = page.sum("tcpstate_series_folded_total", &[("metric", ACCEPT_QUEUE)]);
    assert!(folded > 0);
    drop(staying);
    let said = agent.stop().stderr;
    assert_eq!(said.matches("--series.burst").count(), 1, "{said}");
}

#[test]
fn a_listener_on_a_port_that_the_kernel_chose_is_shown_when_it_is_in_trouble() {
    let namespace = Netns::new();
    let named = listen_on(&namespace, Ipv4Addr::LOCALHOST, STAYING..=STAYING);
    let (any, address) = namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        socket.listen(1).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    });
    let agent = Agent::start();
    within(SHOWN, || {
        let page = agent.page();
        require(
            is_shown(&page, STAYING),
            "what has a port of its own is not shown",
        )?;
        let others = page.samples(ACCEPT_QUEUE, &[("process", "other")]);
        require(!others.is_empty(), "there are no others")
    });
    assert!(!is_shown(&agent.page(), address.port()));
    let _waiting: Vec<_> = namespace.enter(|| {
        let patience = Duration::from_millis(300);
        let each = (0..4).filter_map(|_| TcpStream::connect_timeout(&address, patience).ok());
        each.collect()
    });
    within(SHOWN, || {
        require(
            is_shown(&agent.page(), address.port()),
            "it is not shown in trouble",
        )
    });
    drop((named, any));
}

#[test]
fn a_service_that_the_administrator_has_named_is_shown_whatever_others_do() {
    /// No room for a single one.
    const BURST: &str = "10";
    const NAMED: u16 = STAYING + 1;

    let namespace = Netns::new();
    let _crowd = listen_on(&namespace, Ipv4Addr::LOCALHOST, 30_000..30_050);
    let named = listen_on(&namespace, Ipv4Addr::LOCALHOST, NAMED..=NAMED);
    let port = NAMED.to_string();
    let agent = Agent::start_with(&[
        "--listeners.top",
        "1",
        "--series.burst",
        BURST,
        "--series.per-hour",
        "0",
        "--services.always",
        &port,
    ]);
    within(SHOWN, || {
        let page = agent.page();
        let labels = labels(&page);
        require(is_shown(&page, NAMED), format!("only {labels:?} are shown"))
    });
    let labels = labels(&agent.page());
    assert_eq!(labels.len(), 1, "{labels:?}");
    drop(named);
}
