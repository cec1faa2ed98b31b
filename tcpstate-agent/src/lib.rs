//! The library of `tcpstate-agent`.
//!
//! Data flows one way: [`kernel`] → bytes → [`decode`] → [`collect`] → [`exposition`] and
//! [`diagnosis`] → [`serve`] and the terminal. What is about one subject is in one folder of
//! [`collect`]. The [`kernel`] module alone knows the BPF library, [`engine`] keeps what is known true
//! while the agent runs, and the commands of [`cli`] wire them.

#![deny(unsafe_code)]

pub mod cli;
pub mod code_location;
pub mod collect;
pub mod decode;
pub mod diagnosis;
pub mod engine;
pub mod exposition;
pub mod host;
#[expect(unsafe_code, reason = "the border to the kernel")]
pub mod kernel;
pub mod logging;
pub mod serve;
pub mod trace;
pub mod version;
