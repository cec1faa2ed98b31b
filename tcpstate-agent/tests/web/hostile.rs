//! Clients that take and do not give: halves of requests, answers that are not read, too many
//! connections, headers without end.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcpstate_agent::serve::Limits;

use crate::{
    client::curl,
    scrapes::value,
    server::{Folder, Made, Server},
};

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/// Limits that tests reach soon.
fn limited(change: impl FnOnce(&mut Limits)) -> Server {
    limited_with(Made::default(), change)
}

fn limited_with(made: Made, change: impl FnOnce(&mut Limits)) -> Server {
    Server::start_with(None, made, |settings| {
        settings.limits.connections = 20;
        settings.limits.request = Duration::from_millis(500);
        settings.limits.answer = Duration::from_millis(500);
        settings.limits.idle = Duration::from_millis(1500);
        change(&mut settings.limits);
    })
}

/// A connection from 127.0.0.`last`, with room for few bytes that it has not read.
fn connect_from(server: SocketAddr, last: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let source = IpAddr::from([127, 0, 0, last]);
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream
}

/// Whether the server has ended a connection, of which nothing is to be read.
fn is_ended(stream: &mut TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
    }
}

fn page(server: &Server) -> String {
    let mut stream = connect_from(server.address, 99);
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

fn dropped(server: &Server, reason: &str) -> u64 {
    // What is counted as a page is made is not that page's own.
    thread::sleep(Duration::from_millis(120));
    value(&page(server), &format!("dropped{{reason=\"{reason}\"}}"))
}

fn refused(server: &Server, reason: &str) -> u64 {
    thread::sleep(Duration::from_millis(120));
    value(&page(server), &format!("refused{{reason=\"{reason}\"}}"))
}

/// How long until the server ends the connection, reading nothing.
fn ends_after(stream: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    while !is_ended(stream) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never ends");
    }
    begun.elapsed()
}

#[test]
fn half_a_request_has_its_time_however_it_comes() {
    let server = limited(|_| {});
    let mut silent = connect_from(server.address, 1);
    let mut half = connect_from(server.address, 1);
    half.write_all(b"GET /metrics HT").unwrap();
    let mut dripping = connect_from(server.address, 1);
    let drip = thread::spawn(move || {
        let begun = Instant::now();
        while dripping.write_all(b"a").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
        begun.elapsed()
    });
    for stream in [&mut silent, &mut half] {
        let took = ends_after(stream);
        assert!(took < Duration::from_millis(900), "{took:?}");
    }
    assert!(drip.join().unwrap() < Duration::from_millis(900));
    assert_eq!(dropped(&server, "request_timeout"), 3);
}

#[test]
fn half_of_a_later_request_has_its_time_too() {
    let server = limited(|limits| limits.idle = Duration::from_mins(1));
    let mut stream = connect_from(server.address, 1);
    stream
        .write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = [0; 1024];
    let count = stream.read(&mut answer).unwrap();
    assert!(answer[..count].ends_with(b"healthy\n"));
    stream.write_all(b"GET").unwrap();
    let took = ends_after(&mut stream);
    assert!((400..900).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn who_sends_no_further_request_may_stay_for_longer() {
    let server = limited(|_| {});
    let mut stream = connect_from(server.address, 1);
    stream
        .write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let _ = stream.read(&mut [0; 1024]).unwrap();
    let took = ends_after(&mut stream);
    assert!((1300..2500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(dropped(&server, "idle"), 1);
}

#[test]
fn an_answer_that_is_not_read_has_its_time() {
    // More than the kernel keeps.
    let made = Made {
        size: 4 << 20,
        ..Made::default()
    };
    let server = limited_with(made, |_| {});
    let mut stream = connect_from(server.address, 1);
    stream.write_all(REQUEST).unwrap();
    // A byte a moment is no way to have longer.
    for _ in 0..50 {
        stream.read_exact(&mut [0]).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(dropped(&server, "answer_timeout"), 1);
}

#[test]
fn answers_that_are_not_read_hold_a_bounded_amount() {
    let made = Made {
        size: 2 << 20,
        ..Made::default()
    };
    let server = limited_with(made, |limits| {
        limits.unread_bytes = 5 << 20;
        limits.answer = Duration::from_mins(1);
    });
    // Each holds a page of its own.
    let mut readers: Vec<TcpStream> = (0..6)
        .map(|_| {
            let mut stream = connect_from(server.address, 1);
            stream.write_all(REQUEST).unwrap();
            thread::sleep(Duration::from_millis(150));
            stream
        })
        .collect();
    // Those that asked last still get theirs whole.
    let mut last = readers.pop().unwrap();
    let mut answer = vec![0; 2 << 20];
    last.read_exact(&mut answer).unwrap();
    assert_eq!(dropped(&server, "unread_bytes"), 4);
}

#[test]
fn headers_without_end_are_refused_and_counted() {
    let server = limited(|limits| limits.request = Duration::from_secs(20));
    let mut stream = connect_from(server.address, 1);
    let line = [b"X-Filler: ".to_vec(), vec![b'a'; 1000], b"\r\n".to_vec()].concat();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    // Most of it stays with the kernel, or is refused there.
    let _ = (0..1024).try_for_each(|_| stream.write_all(&line));
    let took = ends_after(&mut stream);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(refused(&server, "headers_too_large"), 1);
    // Headers as scrapers and proxies send them are none.
    let mut stream = connect_from(server.address, 1);
    let header = "a".repeat(8000);
    let request = format!(
        "GET /-/healthy HTTP/1.1\r\nHost: x\r\nX-Long: {header}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_makes_no_sense_is_counted() {
    let server = limited(|_| {});
    let mut stream = connect_from(server.address, 1);
    stream.write_all(b"\x00\xff\xfe garbage\r\n\r\n").unwrap();
    ends_after(&mut stream);
    assert_eq!(refused(&server, "malformed"), 1);
}

#[test]
fn a_source_has_half_of_all_connections_and_its_longest_idle_makes_room() {
    let server = limited(|limits| limits.request = Duration::from_mins(1));
    let mut streams: Vec<TcpStream> = (0..10)
        .map(|_| {
            let stream = connect_from(server.address, 1);
            thread::sleep(Duration::from_millis(5));
            stream
        })
        .collect();
    // The oldest is the one that is used: not the longest idle.
    streams[0]
        .write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let _ = streams[0].read(&mut [0; 1024]).unwrap();
    streams.push(connect_from(server.address, 1));
    thread::sleep(Duration::from_millis(100));
    let ended: Vec<usize> = (0..streams.len())
        .filter(|number| is_ended(&mut streams[*number]))
        .collect();
    assert_eq!(ended, [1]);
    assert_eq!(dropped(&server, "source_limit"), 1);
}

#[test]
fn who_holds_few_is_not_pushed_out_by_who_holds_many() {
    let server = limited(|limits| {
        limits.request = Duration::from_mins(1);
        limits.idle = Duration::from_mins(1);
    });
    let mut kept = connect_from(server.address, 3);
    kept.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let _ = kept.read(&mut [0; 1024]).unwrap();
    // Three sources, none with half of all, take turns in taking all there is.
    let mut streams = Vec::new();
    for number in 0..60 {
        streams.push(connect_from(server.address, 10 + number % 3));
        thread::sleep(Duration::from_millis(2));
    }
    assert!(!is_ended(&mut kept));
    kept.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = [0; 1024];
    kept.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(kept.read(&mut answer).unwrap() > 0);
    let open = streams
        .iter_mut()
        .filter_map(|stream| (!is_ended(stream)).then_some(()))
        .count();
    assert_eq!(open, 19);
    assert!(dropped(&server, "limit") >= 41);
}

#[test]
fn a_tls_handshake_has_its_time_and_its_size() {
    let config = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";
    let folder = Folder::new(config);
    let server = Server::start_with(Some(&folder.config()), Made::default(), |settings| {
        settings.limits.request = Duration::from_millis(500);
    });
    let mut silent = connect_from(server.address, 1);
    // A handshake message of 64 KiB that never ends.
    let mut long = connect_from(server.address, 1);
    let record = [vec![22, 3, 1, 64, 0], vec![1, 0, 255, 255], vec![3; 16_380]].concat();
    let _ = (0..8).try_for_each(|_| long.write_all(&record));
    let took = ends_after(&mut long);
    assert!(took < Duration::from_millis(400), "{took:?}");
    let took = ends_after(&mut silent);
    assert!(took < Duration::from_millis(900), "{took:?}");
    thread::sleep(Duration::from_millis(120));
    let url = format!("https://{}/metrics", server.address);
    let answer = curl(folder.path(), &url, &[]);
    assert_eq!(
        value(answer.text(), r#"dropped{reason="request_timeout"}"#),
        1
    );
    assert_eq!(value(answer.text(), r#"dropped{reason="handshake"}"#), 1);
}
