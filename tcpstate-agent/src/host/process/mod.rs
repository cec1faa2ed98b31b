//! The processes behind the sockets.
//!
//! The kernel knows a process by a number, and numbers are reused. A [`ProcessId`] therefore
//! carries the start time too, and what `/proc` says is believed only of a process that has both:
//! what cannot be read in time is gone, not guessed.
//!
//! All that is read here was chosen by the process or by whoever started it, so that it is
//! label and hint, not evidence; [`label_text`] and [`terminal_text`] make it harmless.

mod command_line;
mod descriptors;
mod identity;
mod patience;
mod printable;
mod run_state;

pub use command_line::command_line;
pub use descriptors::Descriptors;
pub use identity::{Process, ProcessId, executable};
pub(crate) use identity::{ask_about, of_any_thread};
pub(crate) use patience::ask;
pub use printable::{label_text, terminal_text, until_nul};
pub use run_state::RunState;
