//! Pages of metrics: shared, limited, counted, compressed.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use tcpstate_agent::exposition::CONTENT_TYPE;

use crate::{
    client::{Outcome, curl},
    server::{Made, Server},
};

fn get(server: &Server, arguments: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    curl(
        folder.path(),
        &format!("http://{}/metrics", server.address),
        arguments,
    )
}

/// The value of a series in a page.
pub(crate) fn value(page: &str, series: &str) -> u64 {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("no {series} in {page}"))
        .parse()
        .unwrap()
}

/// Sends requests at given moments, and returns the status and body of each answer, in order.
fn ask_at(server: &Server, moments: &[Duration]) -> Vec<(u16, String)> {
    let begun = Instant::now();
    let asking: Vec<_> = moments
        .iter()
        .map(|moment| {
            let (address, at) = (server.address, begun + *moment);
            thread::spawn(move || {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                let mut stream = TcpStream::connect(address).unwrap();
                stream
                    .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    .unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                (status, body.to_owned())
            })
        })
        .collect();
    asking.into_iter().map(|one| one.join().unwrap()).collect()
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn however_many_ask_ten_pages_a_second_are_made() {
    let server = Server::start(None);
    let begun = Instant::now();
    let moments: Vec<Duration> = (0..200).map(|number| ms(number * 5)).collect();
    let answers = ask_at(&server, &moments);
    assert!(answers.iter().all(|(status, _)| *status == 200));
    let tenths = begun.elapsed().as_millis() / 100;
    let made = u128::from(server.made.count.load(Ordering::Relaxed));
    assert!(
        (8..=tenths + 1).contains(&made),
        "{made} in {tenths} tenths"
    );
}

#[test]
fn a_page_whose_making_began_a_tenth_of_a_second_ago_is_not_shared() {
    let made = Made {
        takes: ms(600),
        ..Made::default()
    };
    let server = Server::start_with(None, made, |_| {});
    let answers = ask_at(&server, &[ms(0), ms(40), ms(400)]);
    let pages: Vec<u64> = answers
        .iter()
        .map(|(_, page)| value(page, "made_pages_total"))
        .collect();
    assert_eq!(pages, [1, 1, 2]);
}

#[test]
fn more_than_may_wait_are_told_to_come_again() {
    let made = Made {
        takes: ms(1000),
        ..Made::default()
    };
    let server = Server::start_with(None, made, |settings| settings.max_requests = 2);
    // One causes a page, one waits for the next; who shares a page does not count.
    let answers = ask_at(&server, &[ms(0), ms(30), ms(60), ms(400), ms(600)]);
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 503]);
    assert_eq!(
        answers[4].1,
        "Limit of concurrent requests reached (2), try again later.\n"
    );
    thread::sleep(ms(200));
    let page = get(&server, &[]);
    assert_eq!(value(page.text(), r#"scrapes{code="200"}"#), 4);
    assert_eq!(value(page.text(), r#"scrapes{code="503"}"#), 1);
    assert_eq!(value(page.text(), r#"refused{reason="busy"}"#), 1);
    // The one that this is.
    assert_eq!(value(page.text(), "in_flight"), 1);
}

#[test]
fn any_number_may_wait_where_the_limit_is_0() {
    let made = Made {
        takes: ms(300),
        ..Made::default()
    };
    let server = Server::start_with(None, made, |settings| settings.max_requests = 0);
    let moments: Vec<Duration> = (0..60).map(|_| ms(150)).chain([ms(0)]).collect();
    let answers = ask_at(&server, &moments);
    assert!(answers.iter().all(|(status, _)| *status == 200));
}

#[test]
fn a_page_goes_on_being_made_when_who_asked_first_hangs_up() {
    let made = Made {
        takes: ms(500),
        ..Made::default()
    };
    let server = Server::start_with(None, made, |_| {});
    let mut gone = TcpStream::connect(server.address).unwrap();
    gone.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    thread::sleep(ms(50));
    drop(gone);
    let answers = ask_at(&server, &[ms(0)]);
    assert_eq!(value(&answers[0].1, "made_pages_total"), 1);
}

#[test]
fn gzip_is_sent_to_who_asks_for_it() {
    let server = Server::start(None);
    let plain = get(&server, &[]);
    assert_eq!(plain.header("Content-Encoding"), None);
    assert_eq!(plain.header("Content-Type"), Some(CONTENT_TYPE));
    let raw = get(&server, &["--header", "Accept-Encoding: gzip"]);
    assert_eq!(raw.header("Content-Encoding"), Some("gzip"));
    assert!(raw.body.len() < plain.body.len() / 5, "{}", raw.body.len());
    let decoded = get(&server, &["--compressed"]);
    assert!(
        decoded.text().starts_with("made_pages_total "),
        "{}",
        decoded.text()
    );
    let refused = get(&server, &["--header", "Accept-Encoding: gzip;q=0, zstd"]);
    assert_eq!(refused.header("Content-Encoding"), None);
}

#[test]
fn head_has_the_headers_and_no_body() {
    let server = Server::start(None);
    let page = get(&server, &["--head"]);
    assert_eq!(page.status, Some(200));
    assert_eq!(page.header("Content-Type"), Some(CONTENT_TYPE));
    let length: usize = page.header("Content-Length").unwrap().parse().unwrap();
    assert!(length >= 50_000, "{length}");
}
