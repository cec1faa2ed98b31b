//! Processes.

use aya_ebpf::helpers::bpf_get_current_task;

use super::{TASK_COMM, TASK_LEADER, TASK_START, TASK_TGID, copy, load, read};

/// A `struct task_struct` that the kernel handed to the program.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

impl Task {
    /// # Safety
    ///
    /// `task` must be a `struct task_struct *` that the verifier knows by its BTF type and as not
    /// null.
    #[inline(always)]
    pub(crate) unsafe fn new(task: *const u8) -> Self {
        Self(task)
    }

    /// The process that it is a thread of.
    #[inline(always)]
    pub(crate) fn process(self) -> u32 {
        // SAFETY: `self.0` is a BTF pointer, see `new`.
        unsafe { load(self.0, &TASK_TGID) }
    }

    /// When that process started, `CLOCK_BOOTTIME` nanoseconds.
    #[inline(always)]
    pub(crate) fn process_start(self) -> u64 {
        // SAFETY: `self.0` is a BTF pointer, see `new`; so is the leader of its thread group.
        let leader: *const u8 = unsafe { load(self.0, &TASK_LEADER) };
        // SAFETY: see above.
        unsafe { load(leader, &TASK_START) }
    }
}

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
