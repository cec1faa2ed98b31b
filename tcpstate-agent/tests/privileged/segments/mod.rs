//! Segments on network interfaces: what the programs find in packets, what the agent counts, and
//! that no packet is the worse for it.

mod conversation;
mod counting;
mod devices;
mod empty_program;
mod hostile;
mod others;
mod packets;
mod parsing;
mod wire;

use std::sync::LazyLock;

use tcpstate_agent::kernel::{SegmentOptions, Segments, facts::Facts};

static FACTS: LazyLock<Facts> = LazyLock::new(Facts::gather);

/// The programs, every one of which runs.
fn load(options: SegmentOptions) -> Segments {
    let segments = Segments::load(&FACTS, options).unwrap();
    for program in segments.programs() {
        if let Err(obstacle) = &program.outcome {
            panic!("{} does not run: {obstacle:?}", program.name);
        }
    }
    segments
}
