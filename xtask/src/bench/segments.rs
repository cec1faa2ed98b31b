//! Counting TCP segments on an interface, by XDP and TC.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench,
    agent::{Agent, control_socket, scratch},
    empty_program::EmptyProgram,
    netns::Namespace,
    progress,
    row::{Reach, Row, Unit},
    running::Running,
    spread::Spread,
    stop,
};
use crate::process;

pub(crate) const FLAG: &str = "--segments.device";
const XDP_OFF: &str = "--segments.xdp-mode=off";
/// What is measured, and the program that does it: of several, the first that is there.
const XDP: (&str, &[&str]) = ("XDP", &["segments_frags", "segments_xdp"]);
const TC_IN: (&str, &[&str]) = ("TC, coming in", &["segments_tc_in"]);
const TC_OUT: (&str, &[&str]) = ("TC, going out", &["segments_tc_out"]);
const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of packet.
struct Packet {
    name: &'static str,
    /// An Ethernet frame.
    bytes: Vec<u8>,
    /// What XDP may take for it, seconds.
    limit: f64,
}

fn packets() -> [Packet; 5] {
    [
        ("an IPv4 TCP segment", ipv4(6), 10e-9),
        ("an IPv6 TCP segment", ipv6(6, &ACK), 10e-9),
        (
            "an IPv6 TCP segment behind an extension header",
            extended(),
            20e-9,
        ),
        ("an IPv4 UDP datagram", ipv4(17), 10e-9),
        ("an ARP packet", frame(0x0806, &[0; 28]), 10e-9),
    ]
    .map(|(name, bytes, limit)| Packet { name, bytes, limit })
}

fn frame(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    // The shortest that Ethernet carries.
    frame.resize(frame.len().max(64), 0);
    frame
}

/// An IPv4 packet with an ACK inside, or with something that is not TCP.
fn ipv4(protocol: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet.extend([127, 0, 0, 1, 127, 0, 0, 1]);
    packet.extend(ACK);
    frame(0x0800, &packet)
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(0);
    let mut packet = vec![0x60, 0, 0, 0, 0, length, next_header, 64];
    packet.extend([[0; 15].as_slice(), &[1], &[0; 15], &[1]].concat());
    packet.extend(payload);
    frame(0x86dd, &packet)
}

/// An IPv6 packet with hop-by-hop options, which are padding, before the ACK.
fn extended() -> Vec<u8> {
    ipv6(0, &[[6, 0, 1, 4, 0, 0, 0, 0].as_slice(), &ACK].concat())
}

/// A TCP header without options, from port 80 to 1024.
const ACK: [u8; 20] = [
    0, 80, 4, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let help = process::output(Command::new(&bench.agent).args(["run", "--help"]))?;
    if !help.contains(FLAG) {
        bench.skip(format!(
            "this agent does not count segments (it has no flag {FLAG})"
        ));
        return Ok(());
    }
    test_runs(bench)?;
    throughput(bench)
}

fn test_runs(bench: &mut Bench) -> Result<()> {
    let Some(bpftool) = bench.peers.bpftool.clone() else {
        bench.skip("programs on packets cannot be run without bpftool");
        return Ok(());
    };
    let agent = Agent::start(&bench.agent, &[FLAG, "lo"])?;
    for ((hook, names), empty) in [
        (XDP, EmptyProgram::xdp()?),
        (TC_IN, EmptyProgram::tc()?),
        (TC_OUT, EmptyProgram::tc()?),
    ] {
        let mut id = None;
        for name in names {
            id = id.or(agent.program(name)?);
        }
        let Some(id) = id else {
            bench.skip(format!(
                "the agent has no program {} in the kernel",
                names.join(" or ")
            ));
            continue;
        };
        for packet in packets() {
            let name = format!("{hook}, {}", packet.name);
            progress(&name);
            let mut costs = Vec::new();
            let before = counted(&agent)?;
            let (times, repeat) = bench.full_or_quick((9, 1_000_000), (3, 300_000));
            for _ in 0..times {
                let cost = test_run(&bpftool, id, &packet.bytes, repeat)?;
                costs.push(cost - test_run(&bpftool, empty.id, &packet.bytes, repeat)?);
            }
            // A program that does not know what it sees is fast.
            let (seen, made) = (counted(&agent)? - before, f64::from(times * repeat));
            ensure!(seen >= made, "{name} was counted {seen} times, not {made}");
            let cost = Spread::of(costs).context("nothing was run")?;
            let mut row = Row::new(name, Unit::Seconds, cost);
            if hook == XDP.0 {
                row = row.reach(Reach::AtMost(packet.limit));
            }
            bench.row(row);
        }
    }
    agent.end()
}

/// What the agent has counted on the loopback, which is where the kernel says that it comes from
/// when it runs a program by itself.
fn counted(agent: &Agent) -> Result<f64> {
    let (page, _) = agent.scrape()?;
    let sum = |metric: &str| page.sum(metric, &[("device", "lo")]);
    sum("tcpstate_segments_total")
        .zip(sum("tcpstate_packets_skipped_total"))
        .map(|(segments, skipped)| segments + skipped)
        .context("the agent counts no segments on the loopback")
}

/// Seconds that one run of a program takes by the kernel's account, which is in whole nanoseconds.
fn test_run(bpftool: &Path, id: u32, packet: &[u8], repeat: u32) -> Result<f64> {
    stop::check()?;
    let file = scratch("packet")?;
    fs::write(&file, packet).with_context(|| format!("cannot write {}", file.display()))?;
    let text = process::output(
        Command::new(bpftool)
            .args(["--json", "prog", "run", "id", &id.to_string(), "data_in"])
            .arg(&file)
            .args(["repeat", &repeat.to_string()]),
    )?;
    let answer: serde_json::Value =
        serde_json::from_str(&text).context("cannot understand bpftool")?;
    let nanoseconds = answer["duration"].as_f64();
    nanoseconds
        .map(|nanoseconds| nanoseconds * 1e-9)
        .context("bpftool does not say how long a run took")
}

/// How much a connection gets through with the agent, over without.
fn throughput(bench: &mut Bench) -> Result<()> {
    let Some(iperf3) = bench.peers.iperf3.clone() else {
        bench.skip("throughput cannot be measured without iperf3");
        return Ok(());
    };
    let namespace = Namespace::new()?;
    let mut server = Running::start(
        "iperf3",
        namespace
            .bound(&iperf3.to_string_lossy())
            .args(["--server", "--bind", "127.0.0.1"])
            .stdout(Stdio::null()),
    )?;
    let mut base = Vec::new();
    for (how, flags, pairs) in [
        ("", &[][..], bench.full_or_quick(6, 2)),
        (" by TC alone", &[XDP_OFF][..], bench.full_or_quick(4, 1)),
    ] {
        let mut ratios = Vec::new();
        for pair in 0..pairs {
            progress(&format!("iperf3 with and without{how}"));
            let with = |server: &mut Running| -> Result<f64> {
                let watched = watched(bench, &namespace, flags)?;
                let rate = rate(&iperf3, &namespace, server)?;
                watched.end()?;
                Ok(rate)
            };
            let (with, without) = if pair % 2 == 0 {
                let with = with(&mut server)?;
                (with, rate(&iperf3, &namespace, &mut server)?)
            } else {
                let without = rate(&iperf3, &namespace, &mut server)?;
                (with(&mut server)?, without)
            };
            ratios.push(with / without);
            base.push(without);
        }
        let ratios = Spread::of(ratios).context("nothing was sent")?;
        let name =
            format!("bits a second through a loopback that is watched{how}, over one that is not");
        bench.row(Row::new(name, Unit::Ratio, ratios).reach(Reach::AtLeast(0.97)));
    }
    let base = Spread::of(base).context("nothing was sent")?;
    bench.row(Row::new(
        "bits through one that is not",
        Unit::PerSecond,
        base,
    ));
    Ok(())
}

/// An agent in the namespace, on its loopback.
fn watched(bench: &Bench, namespace: &Namespace, flags: &[&str]) -> Result<Running> {
    let mut agent = Running::start(
        "the agent",
        namespace
            .bound(&bench.agent.to_string_lossy())
            .args(["run", FLAG, "lo", "--web.listen-address=127.0.0.1:10049"])
            .args(flags)
            .arg(format!("--control.socket={}", control_socket().display()))
            .stderr(Stdio::null()),
    )?;
    let client = super::http::Client::new();
    stop::until(PATIENCE, "the agent in the namespace is ready", || {
        if let Some(status) = agent.has_ended()? {
            anyhow::bail!("the agent has ended: {status}");
        }
        Ok(namespace
            .enter(|| client.get("http://127.0.0.1:10049/-/ready"))
            .ok())
    })?;
    Ok(agent)
}

fn rate(iperf3: &Path, namespace: &Namespace, server: &mut Running) -> Result<f64> {
    let start = Instant::now();
    stop::until(PATIENCE, "iperf3 has measured", || {
        if let Some(status) = server.has_ended()? {
            anyhow::bail!("the server of iperf3 has ended: {status}");
        }
        let answer = namespace.enter(|| {
            process::output(Command::new(iperf3).args([
                "--client",
                "127.0.0.1",
                "--json",
                "--time",
                "2",
                "--omit",
                "1",
            ]))
        });
        // The server may not listen yet.
        match answer {
            Err(error) if start.elapsed() > Duration::from_secs(10) => Err(error),
            Err(_) => Ok(None),
            Ok(text) => {
                let answer: serde_json::Value =
                    serde_json::from_str(&text).context("cannot understand iperf3")?;
                let rate = answer["end"]["sum_received"]["bits_per_second"].as_f64();
                rate.context("iperf3 does not say how much it has received")
                    .map(Some)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_frames_of_their_kind() {
        let packets = packets().map(|packet| packet.bytes);
        assert!(packets.iter().all(|bytes| bytes.len() >= 64));
        let types = packets.each_ref().map(|bytes| [bytes[12], bytes[13]]);
        let expected = [[8, 0], [0x86, 0xdd], [0x86, 0xdd], [8, 0], [8, 6]];
        assert_eq!(types, expected);
        let [tcp, tcp6, extended, udp, _] = packets;
        assert_eq!((tcp[14 + 9], udp[14 + 9], tcp6[14 + 6]), (6, 17, 6));
        // Hop-by-hop options, with TCP behind them.
        assert_eq!((extended[14 + 6], extended[14 + 40]), (0, 6));
        // The flags: an ACK.
        let flags = [
            tcp[14 + 20 + 13],
            tcp6[14 + 40 + 13],
            extended[14 + 48 + 13],
        ];
        assert_eq!(flags, [0x10; 3]);
    }
}
