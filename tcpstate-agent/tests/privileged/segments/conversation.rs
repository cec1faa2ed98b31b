//! Real connections: what is counted is what tcpdump captures, and `trace` prints what happens.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tcpstate_common::{Direction, SegmentEvents};

use super::{
    load,
    packets::{IPV4, frame, ipv4, tcp},
    wire::{FAR, NEAR, Sender, follow, near},
};
use crate::{
    documented::assert_as_documented,
    harness::{AGENT, Netns, Running, is_excused, require, within},
};
use tcpstate_agent::{
    collect::segments::packet::{Framing, tcp_flags},
    kernel::{SegmentOptions, XdpMode},
};

const SHOWN: Duration = Duration::from_secs(30);

/// Two namespaces with a wire between them: 10.8.0.1 is the near end, 10.8.0.2 the far one.
fn two_hosts() -> (Netns, Netns) {
    let (near, far) = (Netns::new(), Netns::new());
    near.command(
        "ip",
        &["link", "add", NEAR, "type", "veth", "peer", "name", FAR],
    );
    near.command("ip", &["link", "set", FAR, "netns", &far.way_in()]);
    for (host, end, address) in [(&near, NEAR, "10.8.0.1/24"), (&far, FAR, "10.8.0.2/24")] {
        host.command("ip", &["link", "set", end, "addrgenmode", "none"]);
        host.command("ip", &["address", "add", address, "dev", end]);
        // One segment a packet: what counts is seen before the kernel takes large ones apart, and
        // what captures after it.
        host.command("ip", &["link", "set", end, "gso_max_segs", "1", "up"]);
    }
    (near, far)
}

/// Connections that end in good order, and one that is reset; and one that is refused.
fn talk(near: &Netns, far: &Netns) {
    let listener = far.enter(|| TcpListener::bind("10.8.0.2:80").unwrap());
    for size in [0, 1, 100, 60_000] {
        let mut client = near.enter(|| TcpStream::connect("10.8.0.2:80").unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let sent = thread::spawn(move || {
            client.write_all(&vec![7; size]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            answer.len()
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert_eq!(received, vec![7; size]);
        server.write_all(&received).unwrap();
        drop(server);
        assert_eq!(sent.join().unwrap(), size);
    }
    let mut client = near.enter(|| TcpStream::connect("10.8.0.2:80").unwrap());
    let (server, _) = listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    within(SHOWN, || {
        let mut bytes = [0; 6];
        let there = server.peek(&mut bytes).unwrap();
        require(there == 6, "not there yet")
    });
    // Closed with unread data: it is reset.
    drop(server);
    drop(listener);
    assert!(near.enter(|| TcpStream::connect("10.8.0.2:81").is_err()));
}

/// Segments by direction and flags.
type Seen = BTreeMap<(Direction, u8), u64>;

/// Takes a capture file apart; what comes from `own`, a hardware address, goes out.
fn captured(file: &[u8], own: &[u8]) -> Seen {
    let mut seen = Seen::new();
    let mut rest = file.get(24..).unwrap_or_default();
    while let Some(header) = rest.get(..16) {
        let length = u32::from_ne_bytes(header[8..12].try_into().unwrap()) as usize;
        // The last one may be half written when it is read.
        let Some(packet) = rest.get(16..16 + length) else {
            break;
        };
        rest = &rest[16 + length..];
        if let Ok(flags) = tcp_flags(packet, Framing::Ethernet) {
            let direction = if &packet[6..12] == own {
                Direction::Egress
            } else {
                Direction::Ingress
            };
            *seen.entry((direction, flags)).or_default() += 1;
        }
    }
    seen
}

fn hardware_address(namespace: &Netns) -> Vec<u8> {
    let shown = namespace.command("ip", &["-j", "link", "show", NEAR]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let address = shown[0]["address"].as_str().unwrap();
    address
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[test]
fn conversations_are_counted_as_tcpdump_captures_them_flag_by_flag() {
    if is_excused("tcpdump") {
        return;
    }
    for xdp in [Some(XdpMode::Skb), None] {
        let (host, far) = two_hosts();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("capture");
        let mut tcpdump = Running::start(
            Command::new("nsenter")
                .arg(format!("--net={}", host.way_in()))
                .args([
                    "tcpdump",
                    "-Z",
                    "root",
                    "-i",
                    NEAR,
                    "-U",
                    "--immediate-mode",
                    // Room for many packets, where whole ones would leave room for eight.
                    "-s",
                    "128",
                    "-w",
                ])
                .arg(&file)
                .stderr(Stdio::piped()),
        );
        // It says so when it listens.
        let mut said = BufReader::new(tcpdump.take_stderr());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "tcpdump has ended");
        }
        let mut follower = follow(&host, NEAR, xdp);
        talk(&host, &far);
        let own = hardware_address(&host);
        within(SHOWN, || {
            let truth = captured(&fs::read(&file).unwrap(), &own);
            let mut shown = Seen::new();
            for direction in Direction::ALL {
                let counts = near(&mut follower, direction);
                for (flags, count) in (0..=u8::MAX).zip(counts.by_flags) {
                    if count > 0 {
                        shown.insert((direction, flags), count);
                    }
                }
            }
            let kinds = truth.keys().any(|(_, flags)| flags & 0x04 != 0);
            require(
                shown == truth && truth.len() > 6 && kinds,
                format!("{xdp:?}: counted {shown:x?}, captured {truth:x?}"),
            )
        });
        tcpdump.signal(Signal::INT);
        tcpdump.finish();
    }
}

/// A running `trace --segments` in a namespace, with the lines it prints.
struct Trace {
    process: Running,
    lines: mpsc::Receiver<String>,
}

impl Trace {
    fn start(namespace: &Netns, arguments: &[&str]) -> Self {
        let mut process = Running::start(
            Command::new("nsenter")
                .arg(format!("--net={}", namespace.way_in()))
                .args([AGENT, "trace", "--segments"])
                .args(arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let stdout = BufReader::new(process.take_stdout());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                // Ends when the test has seen enough.
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    /// Lines until none has come for a while.
    fn collect(&self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(1)) {
            lines.push(line);
        }
        lines
    }
}

#[test]
fn trace_shows_the_handshake_and_the_close_beside_the_transitions() {
    let (host, far) = two_hosts();
    let listener = far.enter(|| TcpListener::bind("10.8.0.2:80").unwrap());
    let trace = Trace::start(&host, &["--segments.device", NEAR, "--output", "json"]);
    let connect = |port: u16| {
        let client = host.enter(|| TcpStream::connect(("10.8.0.2", port)));
        client.map(|client| {
            let (server, _) = listener.accept().unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut end = [0];
            assert_eq!((&server).read(&mut end).unwrap(), 0);
            drop(server);
            assert_eq!((&client).read(&mut end).unwrap(), 0);
        })
    };
    // Refused, until it is seen.
    within(SHOWN, || {
        assert!(connect(81).is_err());
        let line = trace.lines.recv_timeout(Duration::from_millis(200));
        let line = line.map_err(|error| error.to_string())?;
        require(line.contains("\"flags\""), line)
    });
    trace.collect();
    connect(80).unwrap();
    let lines = trace.collect();
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_segments = lines.iter().filter(|line| !line["flags"].is_null());
    assert_as_documented("trace-segments", of_segments);
    let shown: Vec<String> = lines
        .iter()
        .map(|line| match line["flags"].as_str() {
            Some(flags) => {
                assert_eq!(line["device"], NEAR);
                format!("{} {flags}", line["direction"].as_str().unwrap())
            }
            None => format!(
                "{} -> {}",
                line["from"].as_str().unwrap(),
                line["to"].as_str().unwrap()
            ),
        })
        .collect();
    let at = |what: &str| {
        let mut places = shown.iter();
        let place = places.position(|line| line == what);
        place.unwrap_or_else(|| panic!("no {what} in {shown:#?}"))
    };
    assert!(at("close -> syn_sent") < at("egress SYN"), "{shown:#?}");
    assert!(at("egress SYN") < at("ingress SYN-ACK"), "{shown:#?}");
    assert!(
        at("ingress SYN-ACK") < at("syn_sent -> established"),
        "{shown:#?}"
    );
    assert!(
        at("established -> fin_wait1") < at("egress FIN-ACK"),
        "{shown:#?}"
    );
    assert!(at("egress FIN-ACK") < at("ingress FIN-ACK"), "{shown:#?}");
    let segments = shown.iter().filter(|line| line.contains("gress "));
    assert_eq!(segments.count(), 4, "{shown:#?}");
    trace.process.signal(Signal::INT);
    let output = trace.process.finish();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("0 withheld"), "{said}");
}

/// No flood fills the ring, or wakes anybody: what is too much is withheld, and counted.
#[test]
fn of_a_flood_no_more_records_come_than_the_limit_and_the_rest_is_counted() {
    const LIMIT: u32 = 20;
    const SYNS: u64 = 5_000;
    let namespace = super::wire::wire();
    let index = super::wire::interface(&namespace, NEAR).unwrap().index;
    let mut segments = load(SegmentOptions {
        record_limit: LIMIT,
        ring_bytes: 64 * 1024,
    });
    segments.add_device(index, Framing::Ethernet).unwrap();
    let _link = namespace.enter(|| segments.attach_xdp(index, XdpMode::Skb).unwrap());
    let started = std::time::Instant::now();
    let sender = Sender::new(&namespace, FAR);
    for _ in 0..SYNS {
        sender.send(&frame(&[IPV4], &ipv4(6, 0, 0, &tcp(0x02))));
        // No record is worth this.
        sender.send(&frame(&[IPV4], &ipv4(6, 0, 0, &tcp(0x18))));
    }
    let events = within(SHOWN, || {
        let events = segments.events().unwrap();
        let seen = events.emitted + events.withheld;
        require(seen == SYNS, format!("{events:?}")).map(|()| events)
    });
    let windows = started.elapsed().as_nanos() / u128::from(SegmentEvents::WINDOW_NS) + 2;
    let cpus = thread::available_parallelism().unwrap().get() as u128;
    let most = u128::from(LIMIT) * windows * cpus;
    assert!(
        u128::from(events.emitted) <= most,
        "{events:?}, at most {most}"
    );
    let mut decoded = 0;
    let refused = segments.drain(|segment| {
        assert_eq!((segment.flags, segment.device), (0x02, index));
        assert_eq!(segment.source.to_string(), "10.9.0.2:40000");
        assert_eq!(segment.destination.to_string(), "10.9.0.1:80");
        decoded += 1;
    });
    assert_eq!((refused, events.lost), (None, 0));
    assert_eq!(decoded, events.emitted);
}
