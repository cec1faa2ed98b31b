//! What keeps a process from going on.

use serde::{Deserialize, Serialize};

/// Whether the first thread of a process can run. All of them stop together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It runs, or sleeps and can be woken.
    #[default]
    Runs,
    /// It was stopped by a signal or a debugger, or frozen with its cgroup.
    Stopped,
    /// It sleeps where no signal wakes it: mostly it waits for a disk or a network filesystem.
    Uninterruptible,
}

/// `TASK_UNINTERRUPTIBLE`
const UNINTERRUPTIBLE: u32 = 0x2;
/// `__TASK_STOPPED` and `__TASK_TRACED`
const STOPPED: u32 = 0x4 | 0x8;
/// `TASK_NOLOAD`: sleeps that way for want of work.
const NO_LOAD: u32 = 0x400;
/// `TASK_FROZEN`, since Linux 6.1; a flag of scheduling before, which no sleeping process has.
const FROZEN: u32 = 0x8000;

impl RunState {
    /// What `task_struct.__state` says (include/linux/sched.h).
    #[must_use]
    pub const fn of(state: u32) -> Self {
        if state & (STOPPED | FROZEN) != 0 {
            Self::Stopped
        } else if state & UNINTERRUPTIBLE != 0 && state & NO_LOAD == 0 {
            Self::Uninterruptible
        } else {
            Self::Runs
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_cannot_go_on_is_told_from_one_that_waits() {
        for (state, expected) in [
            (0x0, RunState::Runs),
            (0x1, RunState::Runs),
            (0x2, RunState::Uninterruptible),
            // TASK_KILLABLE, which waits for NFS.
            (0x102, RunState::Uninterruptible),
            (0x402, RunState::Runs),
            (0x104, RunState::Stopped),
            (0x8, RunState::Stopped),
            (0x8000, RunState::Stopped),
            // TASK_DEAD: the first thread has ended, others go on.
            (0x80, RunState::Runs),
        ] {
            assert_eq!(RunState::of(state), expected, "{state:#x}");
        }
    }
}
