//! Running a program that is attached to nothing.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Ebpf,
    programs::{ProgramError, RawTracePoint},
};

use super::super::{load::verified_instructions, syscall::run_program};

/// A program that runs when it is told to, and leaves what it finds in a map.
///
/// A raw tracepoint, since those are the programs that `BPF_PROG_TEST_RUN` runs in the context of
/// the caller, under RCU, and with nothing made up ([`bpf_prog_test_run_raw_tp()`][run], 5.10). The
/// kernel does not preempt it.
///
/// [run]: https://github.com/torvalds/linux/blob/v6.12/net/bpf/test_run.c
pub(super) struct Program {
    program: OwnedFd,
    verified: u32,
}

impl Program {
    /// Loads a program of an object.
    pub(super) fn load(ebpf: &mut Ebpf, name: &str) -> Result<Self, ProgramError> {
        let program: &mut RawTracePoint = ebpf
            .program_mut(name)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()?;
        program.load()?;
        Ok(Self {
            program: program.fd()?.as_fd().try_clone_to_owned()?,
            verified: verified_instructions(&program.info()?),
        })
    }

    /// Instructions that the verifier went through; 0 before Linux 5.16, which does not say.
    pub(super) const fn verified(&self) -> u32 {
        self.verified
    }

    /// Runs it.
    pub(super) fn run(&self) -> Result<(), ProgramError> {
        Ok(run_program(self.program.as_fd(), None)?)
    }

    /// Runs it on another CPU, where whatever runs there is the current task.
    pub(super) fn run_on(&self, cpu: u32) -> Result<(), ProgramError> {
        Ok(run_program(self.program.as_fd(), Some(cpu))?)
    }
}
