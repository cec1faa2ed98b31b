//! Connections that take all descriptors there are.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, prlimit};

use super::raise_descriptors;
use crate::{agent::Agent, harness::Netns, page::Page};

/// As many as the agent once had descriptors.
const IDLE: usize = 1000;

/// What is on every page, whatever the others on the host do.
const ALWAYS: [&str; 6] = [
    "tcpstate_sockets gauge",
    "tcpstate_transitions_total counter",
    "tcpstate_closes_total counter",
    "tcpstate_listener_accept_queue gauge",
    "tcpstate_namespaces gauge",
    "tcpstate_snapshot_age_seconds gauge",
];

/// A scrape over a connection that stays open.
fn scrape(stream: &mut TcpStream) -> Page {
    try_scrape(stream).unwrap()
}

/// The same, where the connection may have been ended meanwhile.
fn try_scrape(stream: &mut TcpStream) -> io::Result<Page> {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 65_536];
    let (head, length) = loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        answer.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>())
            });
            break (head.to_owned(), length.expect("no length").unwrap());
        }
    };
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    while answer.len() < head.len() + 4 + length {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    let body = answer.split_off(head.len() + 4);
    Ok(Page::parse(String::from_utf8(body).unwrap()))
}

fn families(page: &Page) -> Vec<&str> {
    let lines = page.text.lines();
    lines
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect()
}

/// With as few descriptors as a service manager may allow it.
#[test]
fn a_thousand_idle_connections_take_no_sockets_from_a_page() {
    raise_descriptors();
    let namespace = Netns::new();
    let listeners: Vec<_> = namespace.enter(|| {
        let each = (0..500).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        each.collect()
    });
    let agent = Agent::start_with_descriptors(256);
    let connect = || {
        let stream = TcpStream::connect(agent.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    };
    let mut scraper = connect();
    let before = scrape(&mut scraper);
    let listening = [("family", "ipv4"), ("state", "listen")];
    let sockets = |page: &Page| page.sum("tcpstate_sockets", &listening);
    assert!(sockets(&before) >= 500, "{}", sockets(&before));

    let mut idle = Vec::new();
    let begun = Instant::now();
    let mut pages_made = 0;
    while begun.elapsed() < Duration::from_secs(15) {
        // Some of them are ended by the server, and come back.
        idle.retain(|stream: &TcpStream| {
            stream.set_nonblocking(true).unwrap();
            let ended = stream.peek(&mut [0]).is_ok_and(|count| count == 0);
            stream.set_nonblocking(false).unwrap();
            !ended
        });
        while idle.len() < IDLE {
            match TcpStream::connect_timeout(&agent.address(), Duration::from_millis(200)) {
                Ok(stream) => idle.push(stream),
                Err(_) => break,
            }
        }
        // Of one address the longest idle goes first, and that may be this one.
        let Ok(page) = try_scrape(&mut scraper) else {
            scraper = connect();
            continue;
        };
        pages_made += 1;
        assert!(sockets(&page) >= 500, "{} sockets", sockets(&page));
        let families = families(&page);
        for family in ALWAYS {
            assert!(families.contains(&family), "{family} is missing");
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    assert!(pages_made >= 10, "{pages_made} pages");
    drop(listeners);
}

/// Without a descriptor to spare.
#[test]
fn what_cannot_be_read_for_a_moment_is_no_zero() {
    let agent = Agent::start();
    let mut scraper = TcpStream::connect(agent.address()).unwrap();
    scraper
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let before = scrape(&mut scraper);
    let sum = |page: &Page, metric: &str| {
        let samples = page.samples(metric, &[]);
        (!samples.is_empty()).then(|| page.sum(metric, &[]))
    };
    let counters = [
        "tcpstate_transitions_total",
        "tcpstate_closes_total",
        "tcpstate_listen_overflows_total",
        "tcpstate_segments_sent_rst_total",
    ];
    let limit = |current| {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(4096),
        };
        prlimit(Some(agent.pid()), Resource::Nofile, limit).unwrap();
    };
    for _ in 0..3 {
        limit(3);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let page = scrape(&mut scraper);
            let sockets = sum(&page, "tcpstate_sockets");
            assert!(sockets.is_none_or(|sockets| sockets > 0), "{sockets:?}");
            for metric in counters {
                let (now, then) = (sum(&page, metric), sum(&before, metric));
                assert!(
                    now.is_none_or(|_| now >= then),
                    "{metric}: {then:?}, then {now:?}"
                );
            }
            std::thread::sleep(Duration::from_millis(150));
        }
        limit(4096);
        std::thread::sleep(Duration::from_millis(300));
        let page = scrape(&mut scraper);
        for metric in counters {
            let (now, then) = (sum(&page, metric), sum(&before, metric));
            assert!(
                now >= then && now.is_some(),
                "{metric}: {then:?}, then {now:?}"
            );
        }
    }
}
