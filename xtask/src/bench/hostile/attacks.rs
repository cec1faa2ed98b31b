//! The attacks, each on a thread of its own and from four addresses. Where the server hangs up,
//! they come again.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

/// Something that clients do.
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Goes on until it is told to stop.
    pub(super) run: fn(SocketAddr, &AtomicBool),
}

pub(super) const ALL: [Attack; 5] = [
    Attack {
        name: "2,000 halves of requests",
        run: halves,
    },
    Attack {
        name: "1,000 clients that read a byte a second",
        run: slow_readers,
    },
    Attack {
        name: "1,000 parallel scrapes",
        run: parallel_scrapes,
    },
    Attack {
        name: "headers of 1 MiB",
        run: large_headers,
    },
    Attack {
        name: "100,000 connects a minute",
        run: connects,
    },
];

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n";
/// New connections of one attack, each millisecond.
const PER_MILLISECOND: usize = 2;

/// A connection from the `number`th of four addresses, that never waits.
fn connect(
    server: SocketAddr,
    number: usize,
    receive_buffer: Option<usize>,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let last = [11, 12, 13, 14][number % 4];
    socket.bind(&SocketAddr::from((IpAddr::from([127, 0, 0, last]), 0)).into())?;
    socket.connect_timeout(&server.into(), Duration::from_secs(1))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Keeps `count` connections on which `first` was sent, and does `work` with each of them once a
/// second. One for which that fails is made anew.
fn keep(
    server: SocketAddr,
    stopped: &AtomicBool,
    count: usize,
    first: &[u8],
    receive_buffer: Option<usize>,
    work: fn(&mut TcpStream) -> io::Result<()>,
) {
    let mut open: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !stopped.load(Ordering::Relaxed) {
        let begun = Instant::now();
        for (number, place) in open.iter_mut().enumerate() {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            if place.as_mut().is_some_and(|stream| work(stream).is_err()) {
                *place = None;
            }
            if place.is_none() {
                *place = connect(server, number, receive_buffer).ok();
                // What was not sent is sent with the next connection.
                let _ = place.as_mut().map(|stream| stream.write_all(first));
                if number % PER_MILLISECOND == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
    }
}

/// Whether a connection is still there, of which nothing is to be read.
fn is_there(stream: &mut TcpStream) -> io::Result<()> {
    read_some(stream, &mut [0; 4096])
}

fn read_byte(stream: &mut TcpStream) -> io::Result<()> {
    read_some(stream, &mut [0])
}

fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    match stream.read(buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

fn halves(server: SocketAddr, stopped: &AtomicBool) {
    let half = b"GET /metrics HTTP/1.1\r\nHost: agent\r\nX-Half: ";
    keep(server, stopped, 2000, half, None, is_there);
}

fn slow_readers(server: SocketAddr, stopped: &AtomicBool) {
    keep(server, stopped, 1000, REQUEST, Some(2048), read_byte);
}

/// Round by round.
fn parallel_scrapes(server: SocketAddr, stopped: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !stopped.load(Ordering::Relaxed) {
        let mut open: Vec<TcpStream> = (0..1000)
            .filter_map(|number| {
                let mut stream = connect(server, number, None).ok()?;
                stream.write_all(REQUEST).ok()?;
                Some(stream)
            })
            .collect();
        let begun = Instant::now();
        while !open.is_empty() && begun.elapsed() < Duration::from_secs(5) {
            open.retain_mut(|stream| read_some(stream, &mut buffer).is_ok());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn large_headers(server: SocketAddr, stopped: &AtomicBool) {
    let header = [
        b"GET /metrics HTTP/1.1\r\nX-Large: ".to_vec(),
        vec![b'a'; 1 << 20],
    ]
    .concat();
    let mut open = Vec::new();
    let mut number = 0;
    while !stopped.load(Ordering::Relaxed) {
        number += 1;
        if let Ok(mut stream) = connect(server, number, None) {
            // As much of it as the server takes.
            let _ = stream.write(&header);
            open.push((stream, 0));
        }
        open.retain_mut(|(stream, rounds)| {
            *rounds += 1;
            *rounds < 100 && is_taken(&stream.write(&header))
        });
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether it was written, or would have been.
fn is_taken(written: &io::Result<usize>) -> bool {
    let is_full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    written.as_ref().err().is_none_or(is_full)
}

fn connects(server: SocketAddr, stopped: &AtomicBool) {
    const EVERY: Duration = Duration::from_micros(600);

    let begun = Instant::now();
    let mut number = 0_u32;
    while !stopped.load(Ordering::Relaxed) {
        drop(connect(server, number as usize, None));
        number += 1;
        thread::sleep((EVERY * number).saturating_sub(begun.elapsed()));
    }
}
