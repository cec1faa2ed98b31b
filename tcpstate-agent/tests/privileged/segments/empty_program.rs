//! An XDP program that does nothing: what a trial run costs by itself.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// `r0 = XDP_PASS; exit`.
static INSTRUCTIONS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The part of `union bpf_attr` that runs a program for a trial.
#[repr(C)]
struct TestRun {
    program: u32,
    verdict: u32,
    bytes_in: u32,
    bytes_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    nanoseconds: u32,
}

pub(super) struct EmptyProgram(OwnedFd);

impl EmptyProgram {
    pub(super) fn load() -> Self {
        let mut attributes = Load {
            kind: BPF_PROG_TYPE_XDP,
            instruction_count: 2,
            instructions: (&raw const INSTRUCTIONS) as u64,
            license: c"GPL".as_ptr() as u64,
        };
        // SAFETY: the attributes are what this command reads, and point to what lives as long as
        // the process.
        let descriptor = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) };
        // SAFETY: the kernel has just made it for this caller.
        Self(unsafe { OwnedFd::from_raw_fd(descriptor.try_into().unwrap()) })
    }

    /// How long a run takes, on average.
    pub(super) fn took(&self, packet: &[u8], repeat: u32) -> Duration {
        let mut attributes = TestRun {
            program: self.0.as_raw_fd().try_into().unwrap(),
            verdict: 0,
            bytes_in: packet.len().try_into().unwrap(),
            bytes_out: 0,
            data_in: packet.as_ptr() as u64,
            data_out: 0,
            repeat,
            nanoseconds: 0,
        };
        // SAFETY: the attributes are what this command reads, and the packet outlives the call.
        unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) };
        Duration::from_nanos(attributes.nanoseconds.into())
    }
}

/// Calls bpf(2), which must succeed.
///
/// # Safety
///
/// `attributes` must be the part of `union bpf_attr` that `command` reads and writes.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> libc::c_long {
    // SAFETY: by the function's own condition.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    assert!(result >= 0, "bpf: {}", io::Error::last_os_error());
    result
}
