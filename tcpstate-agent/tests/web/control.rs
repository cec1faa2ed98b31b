//! The control socket, and who blocks it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tcpstate_agent::serve::control::{Control, Patience};
use tokio::runtime::Runtime;

use crate::server::Made;

const QUESTION: &[u8] = b"{\"protocol\":1,\"question\":\"listeners\"}\n";
const PATIENCE: Patience = Patience {
    exchange: Duration::from_millis(500),
    look: Duration::from_millis(50),
};

/// An agent's listening end.
struct Agent {
    runtime: Runtime,
    control: Option<Control>,
}

impl Agent {
    fn start(path: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let control = Control::start(path.to_owned(), Arc::new(Made::default()), PATIENCE).unwrap();
        drop(guard);
        Self {
            runtime,
            control: Some(control),
        }
    }

    fn stop(&mut self) {
        if let Some(control) = self.control.take() {
            self.runtime.block_on(control.stop());
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/control.sock");
    (folder, path)
}

fn within<T>(patience: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < patience, "not within {patience:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn connect(path: &Path) -> UnixStream {
    within(Duration::from_secs(5), || UnixStream::connect(path).ok())
}

/// What is answered to `request`.
fn ask(path: &Path, request: &[u8]) -> String {
    let mut stream = connect(path);
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // It may be hung up on in the middle.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn answers(path: &Path) -> bool {
    ask(path, QUESTION).contains("cannot tell")
}

#[test]
fn requests_that_make_no_sense_are_answered_with_an_error() {
    let (_folder, path) = socket();
    let _agent = Agent::start(&path);
    let long = [vec![b'a'; 1 << 20], vec![b'\n']].concat();
    let deep = [vec![b'['; 4000], vec![b'\n']].concat();
    for request in [
        &b"\n"[..],
        b"\xff\xfe{{{\n",
        b"{\"question\":\"listeners\"}\n",
        b"{\"protocol\":2,\"question\":\"listeners\"}\n",
        b"{\"protocol\":1,\"question\":\"x\"}\n",
        &deep,
        &long,
    ] {
        let answer = ask(&path, request);
        // The kernel resets who has more to say than is listened to.
        let is_refused = answer.contains("error") || (request.len() > 4096 && answer.is_empty());
        assert!(is_refused, "{answer}");
    }
    assert!(answers(&path));
}

#[test]
fn clients_that_say_nothing_or_drip_hold_up_nobody() {
    let (_folder, path) = socket();
    let mut agent = Agent::start(&path);
    let silent: Vec<_> = (0..10).map(|_| connect(&path)).collect();
    let mut dripping = connect(&path);
    let drip = thread::spawn(move || {
        let begun = Instant::now();
        while dripping.write_all(b"a").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
        begun.elapsed()
    });
    let begun = Instant::now();
    assert!(answers(&path));
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(400), "{took:?}");
    // The whole request has its time, not each of its bytes.
    let dripped = drip.join().unwrap();
    assert!(dripped < Duration::from_secs(3), "{dripped:?}");
    let begun = Instant::now();
    agent.stop();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    drop(silent);
}

#[test]
fn a_second_agent_takes_the_socket_when_the_first_is_gone_and_leaves_it_alone_before() {
    let (_folder, path) = socket();
    let mut first = Agent::start(&path);
    assert!(answers(&path));
    let mut second = Agent::start(&path);
    thread::sleep(PATIENCE.look * 3);
    assert!(answers(&path));
    // One that never had it takes nothing away.
    second.stop();
    assert!(answers(&path));
    let _third = Agent::start(&path);
    first.stop();
    within(Duration::from_secs(5), || UnixStream::connect(&path).ok());
    assert!(answers(&path));
}

#[test]
fn a_socket_that_was_taken_away_is_made_again() {
    let (_folder, path) = socket();
    let _agent = Agent::start(&path);
    assert!(answers(&path));
    fs::remove_file(&path).unwrap();
    assert!(answers(&path));
}

#[test]
fn a_socket_of_another_that_came_in_its_place_is_let_be() {
    let (_folder, path) = socket();
    let mut agent = Agent::start(&path);
    assert!(answers(&path));
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    thread::sleep(PATIENCE.look * 3);
    agent.stop();
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_stale_socket_is_replaced() {
    let (_folder, path) = socket();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _agent = Agent::start(&path);
    within(Duration::from_secs(5), || UnixStream::connect(&path).ok());
    assert!(answers(&path));
}
