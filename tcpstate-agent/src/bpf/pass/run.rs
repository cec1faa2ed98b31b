//! Running a program that is attached to nothing.

use aya::{
    Ebpf,
    programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};

/// A program that runs when it is told to, and leaves what it finds in a map.
///
/// A raw tracepoint, since those are the programs that `BPF_PROG_TEST_RUN` runs in the context of
/// the caller, under RCU, and with nothing made up ([`bpf_prog_test_run_raw_tp()`][run], 5.10). The
/// kernel does not preempt it.
///
/// [run]: https://github.com/torvalds/linux/blob/v6.12/net/bpf/test_run.c
pub(super) struct Runnable {
    ebpf: Ebpf,
}

/// What a program of the pass is called, and how long the verifier took.
impl Runnable {
    /// Loads the programs called `names`.
    pub(super) fn load(mut ebpf: Ebpf, names: &[&str]) -> Result<Self, ProgramError> {
        for name in names {
            let program: &mut RawTracePoint = ebpf
                .program_mut(name)
                .ok_or(ProgramError::NotLoaded)?
                .try_into()?;
            program.load()?;
        }
        Ok(Self { ebpf })
    }

    /// Runs one, and gives what it returns.
    pub(super) fn run(&self, name: &str) -> Result<u32, ProgramError> {
        let program: &RawTracePoint = self
            .ebpf
            .program(name)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()?;
        let result = program.test_run(RawTracePointRunOptions::default())?;
        Ok(result.return_value)
    }
}
