//! Connections that take all descriptors there are.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{agent::Agent, harness::Netns, page::Page};

/// As many as the agent once had descriptors.
const IDLE: usize = 1000;

/// A scrape over a connection that stays open.
fn scrape(stream: &mut TcpStream) -> Page {
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 65_536];
    let (head, length) = loop {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the connection was ended");
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
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the connection was ended");
        answer.extend_from_slice(&buffer[..count]);
    }
    let body = answer.split_off(head.len() + 4);
    Page::parse(String::from_utf8(body).unwrap())
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
    let namespace = Netns::new();
    let listeners: Vec<_> = namespace.enter(|| {
        let each = (0..500).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        each.collect()
    });
    let agent = Agent::start_with_descriptors(256);
    let mut scraper = TcpStream::connect(agent.address()).unwrap();
    scraper
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let before = scrape(&mut scraper);
    let listening = [("family", "ipv4"), ("state", "listen")];
    let sockets = |page: &Page| page.sum("tcpstate_sockets", &listening);
    assert!(sockets(&before) >= 500, "{}", sockets(&before));

    let mut idle = Vec::new();
    let begun = Instant::now();
    let mut scrapes = 0;
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
        let page = scrape(&mut scraper);
        scrapes += 1;
        assert!(sockets(&page) >= 500, "{} sockets", sockets(&page));
        let families = families(&page);
        for family in self::families(&before) {
            assert!(families.contains(&family), "{family} is missing");
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    assert!(scrapes >= 20, "{scrapes} scrapes");
    drop(listeners);
}
