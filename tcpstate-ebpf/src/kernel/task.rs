//! Processes.

use aya_ebpf::helpers::bpf_get_current_task;

use super::{TASK_COMM, TASK_LEADER, TASK_TGID, copy, read};

/// The process that makes the system call that the program runs in. Not for programs that run
/// when a segment or a timer comes: there it is whoever was on the CPU.
pub(crate) struct Caller {
    /// Its number.
    pub(crate) process: u32,
    /// comm of its first thread.
    pub(crate) name: [u8; 16],
}

impl Caller {
    #[inline(always)]
    pub(crate) fn now() -> Option<Self> {
        // SAFETY: the helper takes no argument and cannot fail.
        let task = unsafe { bpf_get_current_task() } as *const u8;
        let leader: u64 = read(task, &TASK_LEADER)?;
        let mut name = [0; 16];
        copy(leader as *const u8, &TASK_COMM, &mut name).then_some(())?;
        let process = read(task, &TASK_TGID)?;
        Some(Self { process, name })
    }
}
