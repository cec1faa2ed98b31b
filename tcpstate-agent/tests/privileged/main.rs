//! Tests that need root: real programs in the kernel, real sockets in network namespaces of
//! their own.
//!
//! A number is compared exactly only within a namespace whose sockets the test made; the ground
//! truth is `ss`. Run with `cargo xtask test`, one at a time: they share the kernel. `before_main`
//! sees to that however they are run.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod actor;
mod agent;
mod before_main;
mod churn;
mod close_wait;
mod closes;
mod connections;
mod control;
mod documented;
mod harness;
mod hostile;
mod kernel_counters;
mod kernel_types;
mod listeners;
mod namespaces;
mod owners;
mod page;
mod peer;
mod programs;
mod prometheus;
mod ring;
mod segments;
mod soak;
mod states;
mod terminal;
mod torn_down;
mod where_in_code;
