//! The table against node_exporter: what every exporter does with the same configurations.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    server::Folder,
    table::{self, Expected},
};

/// A program of Debian's, of a version that knows every key.
fn program() -> PathBuf {
    std::env::var_os("TCPSTATE_TEST_NODE_EXPORTER")
        .expect("TCPSTATE_TEST_NODE_EXPORTER names no program: run `cargo xtask test`")
        .into()
}

struct NodeExporter {
    child: Child,
    address: SocketAddr,
}

impl NodeExporter {
    /// Starts it, or returns what it says where it does not start. It listens before it has read
    /// all of its configuration, so where it `should_start` it is not waited for.
    fn start(folder: &Folder, should_start: bool) -> Result<Self, String> {
        // A port that nobody has, asked of the kernel.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = free.unwrap();
        let mut child = Command::new(program())
            .args(["--collector.disable-defaults", "--web.config.file"])
            .arg(folder.config())
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let said = thread::spawn(move || {
            let lines = BufReader::new(stderr).lines();
            lines.map_while(Result::ok).collect::<Vec<_>>().join("\n")
        });
        let begun = Instant::now();
        loop {
            if child.try_wait().unwrap().is_some() {
                return Err(said.join().unwrap());
            }
            let is_due = should_start || begun.elapsed() > Duration::from_secs(3);
            if is_due && TcpStream::connect(address).is_ok() {
                return Ok(Self { child, address });
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "node_exporter does not listen"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "takes Debian's node_exporter: `cargo xtask test` fetches it and runs this"]
fn node_exporter_does_what_the_table_says() {
    let mut faults = Vec::new();
    for (name, row) in table::all() {
        let folder = Folder::new("");
        folder.replace("web.yml", table::filled(&row.config, &folder));
        let should_start = matches!(row.expected, Expected::Answers(_));
        match (&row.expected, NodeExporter::start(&folder, should_start)) {
            (Expected::NoStart(words), Err(said)) => {
                if !said.replace("\\\"", "\"").contains(words) {
                    faults.push(format!("{name}: does not say {words:?}: {said}"));
                }
            }
            (Expected::NoStart(_), Ok(_)) => faults.push(format!("{name}: it starts")),
            (Expected::Answers(_), Err(said)) => {
                faults.push(format!("{name}: it does not start: {said}"));
            }
            (Expected::Answers(asks), Ok(running)) => {
                for ask in asks {
                    let ended = table::end(&folder, running.address, ask, true);
                    match (ended, ask.theirs) {
                        (Ok(()), None) | (Err(_), Some(_)) => {}
                        (Err(fault), None) => faults.push(format!("{name}: {fault}")),
                        (Ok(()), Some(difference)) => {
                            faults.push(format!("{name}: no longer true: {difference}"));
                        }
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}
