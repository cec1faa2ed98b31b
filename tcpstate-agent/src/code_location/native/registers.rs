//! The registers of a thread, from the kernel's `struct pt_regs`.

use framehop::UnwindRegsNative;
use tcpstate_common::REGISTER_WORDS;

/// What unwinding begins with.
#[derive(Clone, Copy, Debug)]
pub struct UserRegisters {
    /// The next instruction.
    pub instruction: u64,
    /// The innermost end of the stack.
    pub stack: u64,
    /// All that the unwinder keeps.
    pub(super) all: UnwindRegsNative,
}

impl UserRegisters {
    /// From the words of the kernel's struct.
    #[cfg(target_arch = "x86_64")]
    #[must_use]
    pub fn from_kernel(words: &[u64; REGISTER_WORDS]) -> Self {
        use framehop::x86_64::Reg;
        // r15, r14, r13, r12, rbp, rbx, then what calls destroy, up to orig_rax; rip, cs, flags,
        // rsp, ss.
        let [r15, r14, r13, r12, rbp, rbx, ..] = *words;
        let (instruction, stack) = (words[16], words[19]);
        let mut all = UnwindRegsNative::new(instruction, stack, rbp);
        for (register, value) in [
            (Reg::RBX, rbx),
            (Reg::R12, r12),
            (Reg::R13, r13),
            (Reg::R14, r14),
            (Reg::R15, r15),
        ] {
            all.set(register, value);
        }
        Self {
            instruction,
            stack,
            all,
        }
    }

    /// From the words of the kernel's struct.
    #[cfg(not(target_arch = "x86_64"))]
    #[must_use]
    pub fn from_kernel(words: &[u64; REGISTER_WORDS]) -> Self {
        // x0 to x30, sp, pc, pstate.
        let (frame, link, stack, instruction) = (words[29], words[30], words[31], words[32]);
        Self {
            instruction,
            stack,
            all: UnwindRegsNative::new(link, stack, frame),
        }
    }

    /// Only what `/proc/PID/task/TID/syscall` tells. It is enough where the functions that wait
    /// have tables and keep no frame pointer, which is nearly always.
    #[must_use]
    pub fn from_syscall(instruction: u64, stack: u64) -> Self {
        let mut words = [0; REGISTER_WORDS];
        if cfg!(target_arch = "x86_64") {
            (words[16], words[19]) = (instruction, stack);
        } else {
            (words[32], words[31]) = (instruction, stack);
        }
        Self::from_kernel(&words)
    }

    /// The same registers, as if the function at `instruction` were running with this stack.
    #[must_use]
    pub(super) fn at(mut self, instruction: u64, stack: u64) -> Self {
        self.instruction = instruction;
        self.stack = stack;
        #[cfg(target_arch = "x86_64")]
        {
            self.all.set_ip(instruction);
            self.all.set_sp(stack);
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.all.set_sp(stack);
        self
    }
}
