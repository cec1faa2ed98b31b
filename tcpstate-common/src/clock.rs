//! The kernel's clocks, by which the ages of sockets are told.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The kernel's two clocks at one moment, the beginning of a pass.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct ClockSample {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub monotonic_ns: u64,
    /// `jiffies_64`, which sockets store the lower half of.
    pub jiffies: u64,
}

const _: () = {
    assert!(size_of::<ClockSample>() == 16);
};
