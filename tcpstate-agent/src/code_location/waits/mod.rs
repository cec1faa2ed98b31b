//! What the threads of a process wait for, now, without stopping it.

mod descriptor;
mod grouping;
mod system_call;
mod task;
mod watching;

pub use descriptor::Held;
pub use grouping::{ThreadGroup, group};
pub use task::{Task, Wait, own_number, tasks};
pub use watching::{accepts, is_told_once};
