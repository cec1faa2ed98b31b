// The same as leak.c in Rust; what is forgotten is not closed. Usage: leak PORT BACKEND_PORT
use std::{
    io::Read,
    mem,
    net::{TcpListener, TcpStream},
    thread,
};

#[inline(never)]
fn read_all(stream: &mut TcpStream) -> usize {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap_or(0)
}

#[inline(never)]
fn handle_leak(mut stream: TcpStream) -> usize {
    let read = read_all(&mut stream);
    mem::forget(stream);
    read
}

#[inline(never)]
fn handle_ok(mut stream: TcpStream) -> usize {
    read_all(&mut stream)
}

#[inline(never)]
fn fetch_leak(backend: u16) -> usize {
    let mut stream = TcpStream::connect(("127.0.0.1", backend)).unwrap();
    let read = read_all(&mut stream);
    mem::forget(stream);
    read
}

#[inline(never)]
fn fetch_ok(backend: u16) -> usize {
    let mut stream = TcpStream::connect(("127.0.0.1", backend)).unwrap();
    read_all(&mut stream)
}

fn main() {
    let ports: Vec<u16> = std::env::args()
        .skip(1)
        .map(|port| port.parse().unwrap())
        .collect();
    let (listener, backend) = (TcpListener::bind(("127.0.0.1", ports[0])).unwrap(), ports[1]);
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        thread::spawn(move || {
            let mut command = [0];
            if stream.read_exact(&mut command).is_err() {
                return;
            }
            match command[0] {
                b'L' => return drop(handle_leak(stream)),
                b'C' => drop(fetch_leak(backend)),
                b'D' => drop(fetch_ok(backend)),
                _ => {}
            }
            handle_ok(stream);
        });
    }
}
