//! How a segment is shown, beside what the textbook says of it.

use serde_json::{Value, json};
use tcpstate_common::{
    Direction, Family,
    flag::{ACK, FIN, RST, SYN},
};

use super::{
    Segment,
    flags::{Anomaly, flag_names},
};
use crate::{host::process::terminal_text, trace::Clock};

/// Version of the JSON object.
const SCHEMA_VERSION: u32 = 1;

/// A segment, and the name of the interface that it passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentLine {
    /// The segment.
    pub segment: Segment,
    /// The interface's name.
    pub device: String,
}

/// What the textbook, RFC 9293, has the two ends of a connection do with such a segment. What the
/// host makes of it are the transitions beside it.
fn textbook(flags: u8) -> &'static str {
    if let Some(anomaly) = Anomaly::of(flags) {
        return match anomaly {
            Anomaly::Null => "no flags: a scan, in no textbook",
            Anomaly::SynFin => "opens and ends at once: a scan, in no textbook",
            Anomaly::SynRst => "opens and resets at once: a scan, in no textbook",
            Anomaly::FinRst => "ends and resets at once: in no textbook",
            Anomaly::Xmas => "all lights on: a scan, in no textbook",
            Anomaly::FinWithoutAck => "an end without ACK: a scan, in no textbook",
            Anomaly::NoAck => "no ACK where every segment has one: in no textbook",
        };
    }
    if flags & RST != 0 {
        return "both ends -> close";
    }
    match (flags & SYN != 0, flags & ACK != 0, flags & FIN != 0) {
        (true, false, _) => "sender close -> syn_sent, receiver listen -> syn_recv",
        (true, true, _) => "sender is in syn_recv, receiver syn_sent -> established",
        (false, _, true) => {
            "sender established -> fin_wait1 or close_wait -> last_ack, receiver established -> \
             close_wait or fin_wait2 -> time_wait"
        }
        (false, _, false) => "urgent data: no change of state",
    }
}

impl SegmentLine {
    /// One line for people.
    #[must_use]
    pub fn text(&self, clock: &Clock) -> String {
        let Self { segment, device } = self;
        let Segment {
            time_ns,
            direction,
            source,
            destination,
            flags,
            sequence,
            acknowledgment,
            ..
        } = segment;
        let arrow = match direction {
            Direction::Ingress => "in",
            Direction::Egress => "out",
        };
        let numbers = if flags & ACK == 0 {
            format!("seq {sequence}")
        } else {
            format!("seq {sequence} ack {acknowledgment}")
        };
        format!(
            "{} {:>10} {:<21} {:<21} {arrow:<3} {} {numbers} (textbook: {})",
            clock.time(*time_ns).strftime("%H:%M:%S.%6f"),
            terminal_text(device.as_bytes()),
            source.to_string(),
            destination.to_string(),
            flag_names(*flags),
            textbook(*flags),
        )
    }

    /// One JSON object. It is told from that of a transition by its member `flags`.
    #[must_use]
    pub fn json(&self, clock: &Clock) -> Value {
        let Self { segment, device } = self;
        let Segment {
            time_ns,
            device: _,
            direction,
            family,
            source,
            destination,
            flags,
            sequence,
            acknowledgment,
        } = segment;
        json!({
            "schema_version": SCHEMA_VERSION,
            "time": clock.time(*time_ns).to_string(),
            "device": device,
            "direction": direction.name(),
            "family": match family { Family::Ipv4 => "ipv4", Family::Ipv6 => "ipv6" },
            "source_address": source.ip(),
            "source_port": source.port(),
            "destination_address": destination.ip(),
            "destination_port": destination.port(),
            "flags": flag_names(*flags),
            "anomaly": Anomaly::of(*flags).map(Anomaly::name),
            "sequence": sequence,
            "acknowledgment": (flags & ACK != 0).then_some(acknowledgment),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(flags: u8) -> SegmentLine {
        SegmentLine {
            segment: Segment {
                time_ns: 61_000_000_123,
                device: 2,
                direction: Direction::Egress,
                family: Family::Ipv4,
                source: "10.0.0.1:40000".parse().unwrap(),
                destination: "10.0.0.2:80".parse().unwrap(),
                flags,
                sequence: 1000,
                acknowledgment: 77,
            },
            device: "eth0".to_owned(),
        }
    }

    #[test]
    fn a_line_has_the_textbook_beside_the_host() {
        assert_eq!(
            line(SYN).text(&Clock::of_boot()),
            "00:01:01.000000       eth0 10.0.0.1:40000        10.0.0.2:80           out SYN seq \
             1000 (textbook: sender close -> syn_sent, receiver listen -> syn_recv)"
        );
    }

    #[test]
    fn every_combination_has_its_words() {
        for (flags, word) in [
            (SYN | ACK, "syn_sent -> established"),
            (FIN | ACK, "fin_wait1"),
            (RST, "-> close"),
            (RST | ACK, "-> close"),
            (SYN | FIN, "scan"),
            (ACK | 0x20, "urgent"),
        ] {
            assert!(textbook(flags).contains(word), "{}", flag_names(flags));
        }
    }

    #[test]
    fn the_json_is_as_documented() {
        assert_eq!(
            line(SYN | ACK).json(&Clock::of_boot()),
            json!({
                "schema_version": 1,
                "time": "1970-01-01T00:01:01.000000123Z",
                "device": "eth0",
                "direction": "egress",
                "family": "ipv4",
                "source_address": "10.0.0.1",
                "source_port": 40000,
                "destination_address": "10.0.0.2",
                "destination_port": 80,
                "flags": "SYN-ACK",
                "anomaly": null,
                "sequence": 1000,
                "acknowledgment": 77,
            })
        );
        let syn = line(SYN).json(&Clock::of_boot());
        assert!(syn["acknowledgment"].is_null());
    }
}
