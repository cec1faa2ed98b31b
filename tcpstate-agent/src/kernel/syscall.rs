//! bpf(2) itself, for what the BPF library does not do.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `enum bpf_cmd`.
const BPF_PROG_TEST_RUN: libc::c_long = 10;
pub(super) const BPF_LINK_CREATE: libc::c_long = 28;

/// Where on a network interface a program is: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Place {
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// The part of `union bpf_attr` that creates a link to a network interface.
#[repr(C)]
struct InterfaceLink {
    program: i32,
    index: u32,
    attach_type: u32,
    flags: u32,
}

/// Links a program to a network interface of the calling thread's namespace. Fails where that would
/// replace a program.
pub(super) fn link_to_interface(
    program: BorrowedFd<'_>,
    index: u32,
    place: Place,
    flags: u32,
) -> io::Result<OwnedFd> {
    let attributes = InterfaceLink {
        program: program.as_raw_fd(),
        index,
        attach_type: place as u32,
        flags,
    };
    // SAFETY: the attributes have the layout that this command reads; the descriptor is open.
    unsafe { bpf(BPF_LINK_CREATE, &attributes) }
}

/// The part of `union bpf_attr` that runs a program.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: i32,
    return_value: u32,
    input_bytes: u32,
    output_bytes: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
    context_bytes_in: u32,
    context_bytes_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
}

/// `BPF_F_TEST_RUN_ON_CPU`.
const TEST_RUN_ON_CPU: u32 = 1;

/// Runs a program once, without arguments: in the context of the caller, or on a CPU, where whatever
/// runs there is the current task.
pub(super) fn run_program(program: BorrowedFd<'_>, cpu: Option<u32>) -> io::Result<()> {
    let mut attributes = TestRun {
        program: program.as_raw_fd(),
        flags: if cpu.is_some() { TEST_RUN_ON_CPU } else { 0 },
        cpu: cpu.unwrap_or(0),
        ..TestRun::default()
    };
    // SAFETY: the attributes have the layout that this command reads and writes, and the kernel
    // takes bytes behind the given size as zeros; the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attributes,
            size_of_u32::<TestRun>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Calls bpf(2) with a command that gives a descriptor.
///
/// # Safety
///
/// `attributes` must be the part of `union bpf_attr` that `command` reads.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: by the function's own condition. The kernel takes bytes behind the given size as
    // zeros.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of_u32::<T>(),
        )
    };
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[expect(clippy::cast_possible_truncation, reason = "some ten bytes")]
pub(super) const fn size_of_u32<T>() -> u32 {
    size_of::<T>() as u32
}
