//! What the programs find in a packet is what the definition says.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tcpstate_common::{Direction, SegmentCounts};

use super::{
    empty_program::EmptyProgram,
    load,
    packets::{IPV4, datagrams, frame, ipv4, ipv6, tcp},
};
use crate::harness::scaled;
use tcpstate_agent::{
    collect::segments::packet::{Framing, tcp_flags},
    kernel::{ProgramError, SegmentOptions, Segments},
};

/// The loopback interface, by which packets for a trial come.
const LOOPBACK: u32 = 1;
const XDP_PASS: u32 = 2;
/// `TC_ACT_UNSPEC`, `TCX_NEXT`.
const UNSPEC: u32 = u32::MAX;
/// The kernel takes no shorter ones for a trial.
const SHORTEST: usize = 15;
/// Of Ethernet and IPv6.
const LONGEST_HEADERS: usize = 14 + 40;

/// The programs, with an interface whose packets begin in this way.
struct Bench {
    segments: Segments,
    framing: Framing,
}

impl Bench {
    fn new(framing: Framing) -> Self {
        let mut segments = load(SegmentOptions {
            // The code that writes records has to be right too.
            record_limit: u32::MAX,
            ring_bytes: 4096,
        });
        segments.add_device(LOOPBACK, framing).unwrap();
        Self { segments, framing }
    }

    fn counts(&self, direction: Direction) -> SegmentCounts {
        self.segments.counts(LOOPBACK, direction).unwrap().unwrap()
    }

    /// Gives the packet to every program, and checks what each makes of it.
    fn check(&self, packet: &[u8]) {
        let expected = tcp_flags(packet, self.framing);
        let mut truth = Direction::ALL.map(|direction| self.counts(direction));
        let mut see = |direction: Direction| {
            let counts = &mut truth[direction.slot()];
            match expected {
                Ok(flags) => counts.by_flags[usize::from(flags)] += 1,
                Err(reason) => counts.skipped[reason.slot()] += 1,
            }
        };
        let trial = self.segments.try_xdp(packet, 1).unwrap();
        assert_eq!((trial.verdict, &*trial.packet), (XDP_PASS, packet));
        see(Direction::Ingress);
        for direction in Direction::ALL {
            match self.segments.try_tc(direction, packet, 1) {
                // Newer kernels make no packet for a trial that is shorter than its IP header.
                // One that has come by a wire is among what the tests of counting send.
                Err(error) if packet.len() < LONGEST_HEADERS && is_invalid(&error) => {}
                trial => {
                    let trial = trial.unwrap();
                    assert_eq!((trial.verdict, &*trial.packet), (UNSPEC, packet));
                    see(direction);
                }
            }
        }
        for direction in Direction::ALL {
            let counts = self.counts(direction);
            assert!(
                counts == truth[direction.slot()],
                "{direction:?} of {packet:02x?}: {expected:02x?} is not what was counted: {:?}",
                difference(&counts, &truth[direction.slot()])
            );
        }
    }

    /// The packet, and what is left of it when it is cut off at any byte.
    fn check_truncated(&self, packet: &[u8]) {
        // What lies far behind the headers does not matter.
        for length in SHORTEST..packet.len().min(160) {
            self.check(&packet[..length]);
        }
        self.check(packet);
    }
}

fn is_invalid(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error)
        if error.io_error.kind() == std::io::ErrorKind::InvalidInput)
}

fn difference(shown: &SegmentCounts, truth: &SegmentCounts) -> Vec<(usize, u64, u64)> {
    let flags = shown.by_flags.iter().zip(&truth.by_flags);
    let all = flags.chain(shown.skipped.iter().zip(&truth.skipped));
    all.enumerate()
        .filter(|(_, (shown, truth))| shown != truth)
        .map(|(place, (shown, truth))| (place, *shown, *truth))
        .collect()
}

#[test]
fn ethernet_frames_are_told_apart_as_defined_cut_off_at_every_byte() {
    let bench = Bench::new(Framing::Ethernet);
    for (kind, datagram) in datagrams() {
        bench.check_truncated(&frame(&[kind], &datagram));
    }
    let segment = ipv4(6, 0, 0, &tcp(0x11));
    for kinds in [
        &[0x8100, IPV4][..],
        &[0x88a8, 0x8100, IPV4],
        &[0x9100, 0x8100, IPV4],
        &[0x8100, 0x8100, 0x8100, IPV4],
        &[0x0806],
        &[0x8100, 0x0806],
        &[46],
        &[0x8864],
    ] {
        bench.check_truncated(&frame(kinds, &segment));
    }
}

#[test]
fn packets_without_ethernet_are_told_apart_as_defined_cut_off_at_every_byte() {
    let bench = Bench::new(Framing::RawIp);
    for (_, datagram) in datagrams() {
        bench.check_truncated(&datagram);
    }
}

#[test]
fn all_256_flags_are_counted_each_by_itself() {
    let bench = Bench::new(Framing::Ethernet);
    for flags in 0..=u8::MAX {
        bench.check(&frame(&[IPV4], &ipv4(6, 0, 0, &tcp(flags))));
    }
    let counts = bench.counts(Direction::Egress);
    assert_eq!((counts.by_flags, counts.skipped), ([1; 256], [0; 3]));
}

/// The definition and the programs on packets that nobody thought of: good ones with some bytes
/// changed and an end cut off.
#[test]
fn programs_and_definition_agree_on_any_packet() {
    let benches = [Framing::Ethernet, Framing::RawIp].map(Bench::new);
    let datagrams = datagrams();
    let default = Config::default();
    let config = Config {
        cases: match std::env::var_os("PROPTEST_CASES") {
            // Where it is set it is in there.
            Some(_) => default.cases,
            None => scaled(2_000),
        },
        failure_persistence: None,
        ..default
    };
    let changes = prop::collection::vec((0..90_usize, any::<u8>()), 0..6);
    let packets = (0..datagrams.len(), 0..5_usize, changes, 0..200_usize);
    TestRunner::new(config)
        .run(&packets, |(number, tags, changes, cut)| {
            let (kind, datagram) = &datagrams[number];
            let kinds: Vec<u16> = [0x8100, 0x88a8, 0x8100, 0x9100][..tags.min(4)]
                .iter()
                .copied()
                .chain([*kind])
                .collect();
            for (bench, mut packet) in benches
                .iter()
                .zip([frame(&kinds, datagram), datagram.clone()])
            {
                for (at, byte) in &changes {
                    if let Some(changed) = packet.get_mut(*at) {
                        *changed = *byte;
                    }
                }
                packet.truncate(packet.len().saturating_sub(cut).max(SHORTEST));
                bench.check(&packet);
            }
            Ok(())
        })
        .unwrap();
}

/// What a segment costs above a program that does nothing, in the same run. Prints what
/// `cargo xtask test -- segments::parsing::a_segment_costs --nocapture` is run for.
#[test]
#[expect(clippy::print_stdout, reason = "figures for whoever asks for them")]
fn a_segment_costs_some_nanoseconds() {
    let repeat = if scaled(2) == 0 { 10_000 } else { 5_000_000 };
    let empty = EmptyProgram::load();
    let mut counting = load(SegmentOptions::default());
    counting.add_device(LOOPBACK, Framing::Ethernet).unwrap();
    let v4 = frame(&[IPV4], &ipv4(6, 0, 0, &tcp(0x10)));
    let v6 = frame(&[0x86dd], &ipv6(&[(0, vec![0; 7])], 6, &tcp(0x10)));
    for (name, packet) in [("IPv4", v4), ("IPv6 with an extension header", v6)] {
        let base = empty.took(&packet, repeat);
        let xdp = counting.try_xdp(&packet, repeat).unwrap().took;
        let tc = counting
            .try_tc(Direction::Egress, &packet, repeat)
            .unwrap()
            .took;
        println!("{name}: empty {base:?}, XDP {xdp:?}, TC {tc:?}");
    }
    let counts = counting
        .counts(LOOPBACK, Direction::Ingress)
        .unwrap()
        .unwrap();
    assert_eq!(counts.by_flags[0x10], u64::from(repeat) * 2);
}
