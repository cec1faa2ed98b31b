//! Logins: many at once, from who guesses and from who knows.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::server::{Folder, Server};

fn status(address: SocketAddr, login: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET /-/healthy HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {}\r\nConnection: close\r\n\r\n",
        STANDARD.encode(login)
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn config(cost: u32) -> String {
    let hash = |password| bcrypt::hash(password, cost).unwrap();
    format!(
        "basic_auth_users:\n  alice: {}\n  dave: {}\n",
        hash("alice123"),
        hash("dave123")
    )
}

#[test]
fn three_hundred_logins_at_once_are_each_told_rightly() {
    let folder = Folder::new(&config(4));
    let server = Server::start(Some(&folder.config()));
    let address = server.address;
    let asking: Vec<_> = (0..300)
        .map(|number| {
            let (login, expected) = match number % 4 {
                0 => ("alice:alice123".to_owned(), 200),
                1 => ("dave:dave123".to_owned(), 200),
                2 => ("alice:dave123".to_owned(), 401),
                _ => (format!("dave:guess{number}"), 401),
            };
            thread::spawn(move || (status(address, &login), expected, login))
        })
        .collect();
    for one in asking {
        let (status, expected, login) = one.join().unwrap();
        assert_eq!(status, expected, "{login}");
    }
}

/// CVE-2022-46146: parts joined by a colon made two logins look alike in the cache.
#[test]
fn a_remembered_login_lets_in_no_other_that_is_written_alike() {
    let hash = bcrypt::hash("x", 4).unwrap();
    let folder = Folder::new(&format!("basic_auth_users:\n  alice: {hash}\n"));
    let server = Server::start(Some(&folder.config()));
    assert_eq!(status(server.address, "alice:x"), 200);
    for login in [
        format!("alice:{hash}:x"),
        format!("alice{hash}:x"),
        "alice:x:".to_owned(),
        ":x".to_owned(),
    ] {
        assert_eq!(status(server.address, &login), 401, "{login}");
    }
    assert_eq!(status(server.address, "alice:x"), 200);
}

#[test]
fn a_login_known_as_right_is_let_in_at_once_while_others_are_guessed() {
    // A guess takes half a second and more.
    let folder = Folder::new(&config(11));
    let server = Server::start(Some(&folder.config()));
    let address = server.address;
    assert_eq!(status(address, "dave:dave123"), 200);
    for number in 0..20 {
        thread::spawn(move || {
            // The server stops while it waits.
            if let Ok(mut stream) = TcpStream::connect(address) {
                let login = STANDARD.encode(format!("alice:guess{number}"));
                let request =
                    format!("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n\r\n");
                let _ = stream.write_all(request.as_bytes());
                let _ = stream.read(&mut [0]);
            }
        });
    }
    thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(status(address, "dave:dave123"), 200);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
}
