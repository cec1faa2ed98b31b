//! What the kernel's structs say, at the offsets that the agent found in the kernel's BTF.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task,
        generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs},
    },
};
use tcpstate_common::{MISSING, REGISTER_WORDS, SocketTrace};

use crate::memory::{read, read_at};

macro_rules! globals {
    ($($name:ident $(= $default:literal)?),+ $(,)?) => {
        $(#[unsafe(no_mangle)]
        static $name: Global<u32> = Global::new(globals!(@default $($default)?));)+
    };
    (@default) => { MISSING };
    (@default $default:literal) => { $default };
}

// The names and meanings are in `tcpstate_common::WHERE_FIELDS` and `where_global`.
globals!(
    SK_STATE,
    SK_FAMILY,
    SK_NET,
    SK_NUM,
    SK_DPORT,
    SK_DADDR,
    SK_RCV_SADDR,
    SK_V6_DADDR,
    SK_V6_RCV_SADDR,
    SK_PROTOCOL,
    NET_INUM,
    TASK_PID,
    TASK_TGID,
    TASK_STACK,
    TASK_FILES,
    THREAD_POINTER,
    FILES_TABLE,
    TABLE_FILES,
    TABLE_SIZE,
    FILE_INODE,
    FILE_PRIVATE,
    INODE_MODE,
    SOCKET_SK,
    TCP_IS_MPTCP,
    SK_ULP_DATA,
    SUBFLOW_PARENT,
    WATCHED = 0,
    REGISTERS_BYTES = 0,
    STACK_POINTER = 0,
    INSTR_POINTER = 0,
    SYSCALL_NUMBER = 0,
    FIRST_ARGUMENT = 0,
    KERNEL_STACK = 0,
);

/// `IPPROTO_TCP`, `IPPROTO_MPTCP`.
pub(crate) const IPPROTO_TCP: u16 = 6;
pub(crate) const IPPROTO_MPTCP: u16 = 262;
const AF_INET: u16 = 2;
/// `TCP_CLOSE_WAIT`.
pub(crate) const CLOSE_WAIT: u8 = 8;

/// `S_IFMT` and `S_IFSOCK`.
const TYPE_MASK: u16 = 0o170_000;
const TYPE_SOCKET: u16 = 0o140_000;

/// The greatest `struct pt_regs` that is copied.
#[expect(clippy::cast_possible_truncation, reason = "some 300 bytes")]
const REGISTERS: u32 = (REGISTER_WORDS * size_of::<u64>()) as u32;

/// A thread of the watched process: the one that runs.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    task: u64,
    /// Its number in the initial PID namespace.
    pub(crate) number: u32,
}

impl Thread {
    /// The thread that makes the system call that the program runs in, if it is one of the watched
    /// process.
    #[inline(always)]
    pub(crate) fn watched() -> Option<Self> {
        let both = bpf_get_current_pid_tgid();
        if (both >> 32) as u32 != WATCHED.load() {
            return None;
        }
        // SAFETY: the helper takes nothing and cannot fail.
        let task = unsafe { bpf_get_current_task() };
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        let number = both as u32;
        Some(Self { task, number })
    }

    /// Where the user's registers lie in the kernel's memory.
    #[inline(always)]
    pub(crate) fn registers(self) -> Option<Registers> {
        if KERNEL_STACK.load() != 0 {
            return Registers::at_end_of_stack(self.task);
        }
        // SAFETY: the helper takes nothing and gives the task that runs, as a pointer that the
        // verifier knows; the next one takes such a pointer.
        let task = unsafe { bpf_get_current_task_btf() };
        // SAFETY: see above.
        Some(Registers(unsafe { bpf_task_pt_regs(task) }.cast_unsigned()))
    }

    /// What it keeps its own data at.
    #[inline(always)]
    pub(crate) fn pointer(self) -> Option<u64> {
        thread_pointer(self.task)
    }

    /// The socket behind one of its descriptors.
    #[inline(always)]
    pub(crate) fn socket(self, descriptor: u32) -> Option<Socket> {
        let files: u64 = read(self.task, &TASK_FILES)?;
        let table: u64 = read(files, &FILES_TABLE)?;
        let size: u32 = read(table, &TABLE_SIZE)?;
        if descriptor >= size {
            return None;
        }
        let files: u64 = read(table, &TABLE_FILES)?;
        let file: u64 = read_at(files.wrapping_add(u64::from(descriptor) * 8))?;
        let inode: u64 = read(file, &FILE_INODE)?;
        let mode: u16 = read(inode, &INODE_MODE)?;
        if mode & TYPE_MASK != TYPE_SOCKET {
            return None;
        }
        let socket: u64 = read(file, &FILE_PRIVATE)?;
        Some(Socket(read(socket, &SOCKET_SK)?))
    }
}

/// The thread pointer of any task.
#[inline(always)]
pub(crate) fn thread_pointer(task: u64) -> Option<u64> {
    if THREAD_POINTER.load() == MISSING {
        return None;
    }
    read(task, &THREAD_POINTER)
}

/// The process of any task, and the task's own number.
#[inline(always)]
pub(crate) fn numbers(task: u64) -> Option<(u32, u32)> {
    Some((read(task, &TASK_TGID)?, read(task, &TASK_PID)?))
}

/// Whether `process` is the watched one.
#[inline(always)]
pub(crate) fn is_watched(process: u32) -> bool {
    process == WATCHED.load()
}

/// The registers of a thread of user space, in the kernel's memory.
#[derive(Clone, Copy)]
pub(crate) struct Registers(u64);

impl Registers {
    /// At an address that the kernel handed to the program.
    pub(crate) const fn at(address: u64) -> Self {
        Self(address)
    }

    /// Of any task, where the kernel has no helper for it (before Linux 5.15).
    #[inline(always)]
    pub(crate) fn at_end_of_stack(task: u64) -> Option<Self> {
        let stack: u64 = read(task, &TASK_STACK)?;
        let end = stack.wrapping_add(u64::from(KERNEL_STACK.load()));
        Some(Self(end.wrapping_sub(u64::from(REGISTERS_BYTES.load()))))
    }

    /// Whether they are where [`at_end_of_stack`](Self::at_end_of_stack) finds them.
    #[inline(always)]
    pub(crate) fn are_at_end_of_stack() -> bool {
        KERNEL_STACK.load() != 0
    }

    #[inline(always)]
    pub(crate) fn stack_pointer(self) -> Option<u64> {
        read(self.0, &STACK_POINTER)
    }

    #[inline(always)]
    pub(crate) fn instruction_pointer(self) -> Option<u64> {
        read(self.0, &INSTR_POINTER)
    }

    #[inline(always)]
    pub(crate) fn system_call(self) -> Option<u32> {
        read(self.0, &SYSCALL_NUMBER)
    }

    #[inline(always)]
    pub(crate) fn first_argument(self) -> Option<u32> {
        read(self.0, &FIRST_ARGUMENT)
    }

    /// Copies all of them.
    #[inline(always)]
    pub(crate) fn copy(self, to: &mut [u64; REGISTER_WORDS]) -> bool {
        let bytes = REGISTERS_BYTES.load();
        let bytes = if bytes > REGISTERS { REGISTERS } else { bytes };
        let to = to.as_mut_ptr().cast();
        // SAFETY: no more is written than the array has; the helper checks the address that it
        // reads.
        unsafe { bpf_probe_read_kernel(to, bytes, self.0 as *const _) == 0 }
    }
}

/// A `struct sock`, by its address.
#[derive(Clone, Copy)]
pub(crate) struct Socket(pub(crate) u64);

impl Socket {
    /// Whether it is a connection of TCP, or one of MPTCP above its subflows.
    #[inline(always)]
    pub(crate) fn is_tcp(self) -> bool {
        matches!(self.protocol(), Some(IPPROTO_TCP | IPPROTO_MPTCP))
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> Option<u16> {
        read(self.0, &SK_PROTOCOL)
    }

    /// The MPTCP connection that it is a subflow of: `mptcp_subflow_ctx(sk)->conn`.
    #[inline(always)]
    pub(crate) fn parent(self) -> Option<Self> {
        if TCP_IS_MPTCP.load() == MISSING
            || SK_ULP_DATA.load() == MISSING
            || SUBFLOW_PARENT.load() == MISSING
            || self.protocol() != Some(IPPROTO_TCP)
            || read::<u8>(self.0, &TCP_IS_MPTCP)? == 0
        {
            return None;
        }
        let context: u64 = read(self.0, &SK_ULP_DATA)?;
        Some(Self(read(context, &SUBFLOW_PARENT)?))
    }

    #[inline(always)]
    pub(crate) fn is_in_close_wait(self) -> bool {
        read::<u8>(self.0, &SK_STATE) == Some(CLOSE_WAIT)
    }

    /// Writes what names it to the world.
    #[inline(always)]
    pub(crate) fn describe(self, trace: &mut SocketTrace) -> Option<()> {
        trace.protocol = self.protocol()?;
        trace.family = read(self.0, &SK_FAMILY)?;
        let net: u64 = read(self.0, &SK_NET)?;
        trace.namespace = read(net, &NET_INUM)?;
        trace.local_port = read(self.0, &SK_NUM)?;
        trace.remote_port = u16::from_be(read(self.0, &SK_DPORT)?);
        if trace.family == AF_INET {
            let local: [u8; 4] = read(self.0, &SK_RCV_SADDR)?;
            let remote: [u8; 4] = read(self.0, &SK_DADDR)?;
            trace.local_address[..4].copy_from_slice(&local);
            trace.remote_address[..4].copy_from_slice(&remote);
        } else {
            trace.local_address = read(self.0, &SK_V6_RCV_SADDR)?;
            trace.remote_address = read(self.0, &SK_V6_DADDR)?;
        }
        Some(())
    }
}
