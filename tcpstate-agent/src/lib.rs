//! The library of `tcpstate-agent`.
//!
//! Data flows one way: kernel → bytes → [`decode`] → [`model`] → [`metrics`], [`serve`] and the
//! terminal. The [`bpf`] module alone knows the BPF library,
//! [`watch`] keeps the model true while the agent runs, and [`commands`] wires them.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "the border to the kernel")]
pub mod bpf;
pub mod cli;
pub mod code_location;
pub mod commands;
pub mod decode;
pub mod diagnosis;
pub mod end_words;
pub mod host;
pub mod landing_page;
pub mod logging;
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the allocator is asked in C's terms")
)]
mod memory;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod ownership;
pub mod process;
pub mod recent_ends;
pub mod segments;
pub mod serve;
pub mod settings;
pub mod timeline;
pub mod version;
pub mod watch;
