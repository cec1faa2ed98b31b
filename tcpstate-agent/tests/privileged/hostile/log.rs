//! A log that nobody reads.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{AGENT, Running, require, within};

/// Fills a pipe or a socket that nobody reads, to its last byte.
fn fill(stream: &UnixStream) {
    stream.set_nonblocking(true).unwrap();
    let mut stream = stream;
    while stream.write(&[b'.'; 4096]).is_ok() {}
    while stream.write(b".").is_ok() {}
    stream.set_nonblocking(false).unwrap();
}

#[test]
fn a_reader_of_stderr_that_does_not_read_stops_nothing() {
    let (agents, mut nobody) = UnixStream::pair().unwrap();
    fill(&agents);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let address = address.to_string();
    // From debug on it tells of each request that makes no sense.
    let mut agent = Running::start(
        Command::new(AGENT)
            .args([
                "run",
                "--log.level",
                "debug",
                "--web.listen-address",
                &address,
            ])
            .stderr(Stdio::from(std::os::fd::OwnedFd::from(agents))),
    );
    let get = |path: &str| {
        let answer = ureq::get(format!("http://{address}{path}")).call();
        let mut answer = answer.map_err(|error| error.to_string())?;
        answer
            .body_mut()
            .read_to_string()
            .map_err(|error| error.to_string())
    };
    within(Duration::from_secs(90), || get("/-/ready"));
    within(Duration::from_mins(1), || {
        // Each is something to say.
        for _ in 0..300 {
            let mut stream = TcpStream::connect(&address).map_err(|error| error.to_string())?;
            // Fails where the agent has hung up already.
            let _ = stream.write_all(b"\x00 no request\r\n\r\n");
        }
        let page = get("/metrics")?;
        let lost = page.lines().find_map(|line| {
            let name = r#"tcpstate_log_messages_dropped_total{reason="not_read"} "#;
            line.strip_prefix(name)?.parse::<u64>().ok()
        });
        require(lost.ok_or("no such series")? > 0, format!("lost {lost:?}"))
    });
    assert_eq!(agent.try_finish(), None);
    agent.signal(Signal::TERM);
    within(Duration::from_secs(20), || {
        let status = agent.try_finish().ok_or("it does not end")?;
        require(status.code() == Some(0), format!("{status:?}"))
    });
    let mut first = [0; 16];
    nobody.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"................");
}
