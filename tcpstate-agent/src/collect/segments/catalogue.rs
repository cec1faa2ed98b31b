//! Segments on network interfaces.

use crate::exposition::catalogue::{Kind, Label, Metric};

const DEVICE: Label = Label {
    name: "device",
    values: "the interface's name; what was counted before it got this name is with its former one",
};
const DIRECTION: Label = Label {
    name: "direction",
    values: "`ingress`, to the host; `egress`, from it",
};

/// Segments by their flags.
pub const SEGMENTS: Metric = Metric {
    name: "tcpstate_segments_total",
    kind: Kind::Counter,
    labels: &[
        DEVICE,
        DIRECTION,
        Label {
            name: "flags",
            values: "those that are set, in the order `SYN`, `FIN`, `RST`, `PSH`, `URG`, `ECE`, \
                     `CWR`, `ACK`, joined by `-`; `none`",
        },
    ],
    help: "TCP segments by their exact combination of flags, as the interface hands them to the \
           kernel and gets them from it: what hardware and kernel put together (GRO) or will take \
           apart (TSO) is one segment here.",
};

/// Segments that no healthy connection has.
pub const ANOMALOUS: Metric = Metric {
    name: "tcpstate_segments_anomalous_total",
    kind: Kind::Counter,
    labels: &[
        DEVICE,
        DIRECTION,
        Label {
            name: "kind",
            values: "the first that fits: `null` (no flag), `syn_fin`, `syn_rst`, `fin_rst`, \
                     `xmas` (FIN, PSH and URG without ACK), `fin_without_ack`, `no_ack` (none of \
                     SYN, RST and ACK)",
        },
    ],
    help: "Of these, the segments with flags that no healthy connection has: scans, and broken \
           stacks.",
};

/// Packets without flags.
pub const SKIPPED: Metric = Metric {
    name: "tcpstate_packets_skipped_total",
    kind: Kind::Counter,
    labels: &[
        DEVICE,
        DIRECTION,
        Label {
            name: "reason",
            values: "`non_tcp`; `fragment`: not the first of its packet; `unparsed`: cut off, \
                     senseless, or behind more than 2 VLAN tags or 6 extension headers",
        },
    ],
    help: "Packets that are no TCP segments, or whose flags are not known. With \
           tcpstate_segments_total they are all that passed the interface.",
};
