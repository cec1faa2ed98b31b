//! Running programs that are attached to nothing.

use aya::{
    Ebpf,
    programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};

/// Programs that run when they are told to, and leave what they find in a map.
///
/// Raw tracepoints, since those are what `BPF_PROG_TEST_RUN` runs in the context of the caller,
/// under RCU, and with nothing made up ([`bpf_prog_test_run_raw_tp()`][run], 5.10). The kernel does
/// not preempt them.
///
/// [run]: https://github.com/torvalds/linux/blob/v6.12/net/bpf/test_run.c
pub(super) struct Runnable {
    ebpf: Ebpf,
    verified: u32,
}

impl Runnable {
    /// Loads the programs called `names`.
    pub(super) fn load(mut ebpf: Ebpf, names: &[&str]) -> Result<Self, ProgramError> {
        let mut verified = 0;
        for name in names {
            let program: &mut RawTracePoint = ebpf
                .program_mut(name)
                .ok_or(ProgramError::NotLoaded)?
                .try_into()?;
            program.load()?;
            verified += program.info()?.verified_instruction_count().unwrap_or(0);
        }
        Ok(Self { ebpf, verified })
    }

    /// Instructions that the verifier went through for all of them.
    pub(super) const fn verified(&self) -> u32 {
        self.verified
    }

    /// Runs one, and gives what it returns.
    pub(super) fn run(&self, name: &str) -> Result<u32, ProgramError> {
        self.run_with(name, RawTracePointRunOptions::default())
    }

    /// Runs one on another CPU, where whatever is running then is the current task.
    pub(super) fn run_on(&self, name: &str, cpu: u32) -> Result<u32, ProgramError> {
        let options = RawTracePointRunOptions {
            cpu: Some(cpu),
            ..RawTracePointRunOptions::default()
        };
        self.run_with(name, options)
    }

    fn run_with(&self, name: &str, options: RawTracePointRunOptions) -> Result<u32, ProgramError> {
        let program: &RawTracePoint = self
            .ebpf
            .program(name)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()?;
        Ok(program.test_run(options)?.return_value)
    }
}
