//! What the kernel side and the user side of tcpstate share.
//!
//! The eBPF programs write the types of this crate into maps and ring buffers, the agent reads
//! them back. Each type that crosses the border has a fixed layout whose size is asserted here,
//! so the two sides cannot drift apart. Bytes from the other side are never trusted: they become
//! an enum only through a checked conversion such as [`TcpState::from_kernel`].
#![no_std]
#![forbid(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "in the programs a call that is not inlined costs the verifier its knowledge"
)]

mod clock;
mod close;
mod counters;
mod due;
mod duration;
mod ending;
mod family;
mod handshake;
mod kernel_field;
mod listener;
mod names;
pub mod pass;
mod record;
mod resets;
mod segment;
mod stack_sample;
mod state;
pub mod stopwatch;

pub use clock::ClockSample;
pub use close::{CloseCounters, CloseReason};
pub use counters::{CpuCounters, EventCounters, NamespaceCounters, StateFlow, TransitionMatrix};
pub use due::Due;
pub use duration::{Durations, STATE_BOUNDS_NS, StateDurations, TimedState, UNKNOWN};
pub use ending::{EndFacts, Ending, SentReset, Stage, errno};
pub use family::Family;
pub use handshake::{HANDSHAKE_BOUNDS_NS, Handshakes, RoleHandshakes};
pub use kernel_field::{FIELDS, KernelField, MISSING};
pub use listener::{
    HALF_OPEN_AGES, HALF_OPEN_RETRANSMITS, HalfOpen, HalfOpenCounts, ListenAddress,
    MAX_SYNACK_LISTENERS, PORT_WORDS, PortSet, ServiceCounts,
};
pub use names::{global, map, program, segment_global, segment_map, segment_program};
pub use record::{RecordMask, TransitionKind, TransitionRecord};
pub use resets::{RESET_REASONS, ResetCounters};
pub use segment::{
    DeviceEntry, Direction, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, SegmentCounts, SegmentEvents,
    SegmentRecord, Skipped, flag, is_telling,
};
pub use stack_sample::{
    LONG_STACK, PYTHON_FRAMES, PythonFrame, PythonLayout, REGISTER_WORDS, SHORT_STACK,
    SampleAccount, SampleHeader, SampleKind, SocketTrace, THREAD_POINTER_ARM64,
    THREAD_POINTER_X86_64, ThreadRecord, WHERE_FIELDS, where_global, where_map, where_program,
};
pub use state::{STATE_SLOTS, TcpState};
/// `number`, which is below `SIZE`, a power of two, as an index. The mask is for the verifier, and
/// has to be right before the use: the compiler, which knows that it changes nothing, would drop it,
/// and the verifier of Linux 5.10 forgets what it knows of a number that goes to the stack.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the mask comes after it")]
fn masked<const SIZE: usize>(number: u64) -> usize {
    const { assert!(SIZE.is_power_of_two()) }
    #[cfg(target_arch = "bpf")]
    let number = core::hint::black_box(number);
    number as usize & (SIZE - 1)
}
