//! Where in the code of a process its sockets are used, and what its threads wait for.
//!
//! The kernel side copies registers and stacks when sockets are opened, accepted and read. Here
//! they become functions and lines, by the tables in the process's own files, and sockets that stay
//! in CLOSE_WAIT are grouped by them.
//!
//! All of that is the watched process's to choose: its memory, its files, its names. None of it is
//! believed, all of it is bounded. The process is never stopped.

pub mod elsewhere;
pub mod frame;
pub mod helper;
pub mod inspect;
pub mod maps;
pub mod memory;
pub mod native;
mod open;
pub mod patience;
pub mod perf_map;
mod proc_status;
pub mod python;
pub mod report;
pub mod runtimes;
pub mod sample;
pub mod target;
pub mod tcp_table;
pub mod trace;
pub mod waits;
pub mod watch;
