//! What the programs of `where` hand over: copies of user stacks, and which of them belong to which
//! socket.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{KernelField, kernel_field::fields};

/// What a thread was doing when its stack was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SampleKind {
    /// `connect()`.
    Open = 0,
    /// `accept()` gave a connection.
    Accept = 1,
    /// A read took data.
    Read = 2,
    /// A read saw the end of file or an error.
    ReadEnd = 3,
}

impl SampleKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Open, Self::Accept, Self::Read, Self::ReadEnd];

    /// The kind that has this number in a record.
    #[must_use]
    pub fn from_record(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// Registers that are copied, in the order of the architecture's `struct pt_regs`.
pub const REGISTER_WORDS: usize = 34;

/// Frames of Python that are followed, from the innermost one on.
pub const PYTHON_FRAMES: usize = 40;

/// Bytes of stack that are copied at first.
pub const SHORT_STACK: usize = 16 * 1024;
/// Bytes that are copied where that has turned out to be too little.
pub const LONG_STACK: usize = 64 * 1024;

/// What a sample begins with. Behind it lies the stack from its pointer upwards, of which
/// `stack_bytes` are valid.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SampleHeader {
    /// Names the sample in a [`SocketTrace`]; never 0.
    pub id: u32,
    /// The thread's number in the initial PID namespace.
    pub thread: u32,
    /// [`SampleKind`].
    pub kind: u32,
    /// Valid bytes behind the header.
    pub stack_bytes: u32,
    /// Valid elements of `python`.
    pub python_frames: u32,
    /// 1 where there are more: they did not fit, or could not be read.
    pub python_is_cut: u32,
    /// The user's registers as they were when the thread entered the kernel.
    pub registers: [u64; REGISTER_WORDS],
    /// Frames of Python, the innermost first.
    pub python: [PythonFrame; PYTHON_FRAMES],
}

const _: () = assert!(size_of::<SampleHeader>() == 24 + 8 * REGISTER_WORDS + 16 * PYTHON_FRAMES);

/// A frame of the Python interpreter, as two numbers in the process's memory.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PythonFrame {
    /// Address of its code object.
    pub code: u64,
    /// Where in the code it is: an address, or a number before Python 3.11.
    pub instruction: u64,
}

/// What was seen of one socket of the watched process.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SocketTrace {
    /// Since when it is in CLOSE_WAIT, `CLOCK_MONOTONIC` nanoseconds; 0 where it is not.
    pub close_wait_ns: u64,
    /// When a read of it was last copied; 0 for never.
    pub copied_ns: u64,
    /// Samples by [`SampleKind`]; 0 for none. Of reads the last one that was copied.
    pub samples: [u32; 4],
    /// The sample of its first read, 0 where there is none.
    pub first_read: u32,
    /// How often each kind of event was seen.
    pub seen: [u32; 4],
    /// Reads since the last one that was copied.
    pub reads_since_copy: u32,
    /// Inode number of the network namespace.
    pub namespace: u32,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u16,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// `IPPROTO_TCP` (6) or `IPPROTO_MPTCP` (262).
    pub protocol: u16,
    /// Always 0.
    pub padding: [u16; 2],
    /// Local address; IPv4 uses the first four bytes, the others are 0.
    pub local_address: [u8; 16],
    /// Remote address, likewise.
    pub remote_address: [u8; 16],
}

const _: () = assert!(size_of::<SocketTrace>() == 104);

impl SocketTrace {
    /// Sockets that can be followed at once.
    pub const MOST: u32 = 32 * 1024;
}

/// The account of one CPU: `seen` is what became of the events of the watched process.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SampleAccount {
    /// Events by [`SampleKind`].
    pub seen: [u64; 4],
    /// Samples that were handed over.
    pub copied: u64,
    /// Events without a sample, because there were too many of them.
    pub refused: u64,
    /// Samples that found the ring full.
    pub lost: u64,
    /// Events of sockets beyond [`SocketTrace::MOST`].
    pub untracked: u64,
    /// Reads of MPTCP connections, among those in `seen`.
    pub mptcp: u64,
    /// Followed sockets that came into CLOSE_WAIT.
    pub entered: u64,
    /// Followed sockets that left it again.
    pub left: u64,
}

impl SampleAccount {
    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.seen.iter_mut().zip(other.seen) {
            *sum = sum.wrapping_add(more);
        }
        self.copied = self.copied.wrapping_add(other.copied);
        self.refused = self.refused.wrapping_add(other.refused);
        self.lost = self.lost.wrapping_add(other.lost);
        self.untracked = self.untracked.wrapping_add(other.untracked);
        self.mptcp = self.mptcp.wrapping_add(other.mptcp);
        self.entered = self.entered.wrapping_add(other.entered);
        self.left = self.left.wrapping_add(other.left);
    }
}

/// Where the interpreter of a process keeps its frames. All but `runtime` are offsets in bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PythonLayout {
    /// Address of the pointer to the first `PyThreadState`'s interpreter; 0 where the process is
    /// no Python.
    pub interpreter: u64,
    /// What to take away from a `code` pointer: bits that are tags.
    pub code_mask: u64,
    /// What `thread_id` is above the thread pointer of the CPU.
    pub thread_id_bias: u64,
    /// `PyInterpreterState`: the first thread.
    pub threads: u32,
    /// `PyThreadState`: the next one.
    pub next: u32,
    /// `PyThreadState`: `pthread_self()`.
    pub thread_id: u32,
    /// `PyThreadState`: the innermost frame, or the `_PyCFrame` that has it.
    pub frame: u32,
    /// `_PyCFrame`: the innermost frame; [`MISSING`](crate::MISSING) where there is no such struct.
    pub cframe_frame: u32,
    /// A frame: its code.
    pub code: u32,
    /// A frame: the one that called it.
    pub previous: u32,
    /// A frame: where in the code it is.
    pub instruction: u32,
    /// 4 or 8: bytes of `instruction`.
    pub instruction_bytes: u32,
    /// Always 0.
    pub padding: u32,
}

/// A thread as the iterator finds it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ThreadRecord {
    /// Its number in the initial PID namespace.
    pub thread: u32,
    /// Always 0.
    pub padding: u32,
    /// Its thread pointer.
    pub thread_pointer: u64,
    /// The user's registers as they were when it entered the kernel.
    pub registers: [u64; REGISTER_WORDS],
}

/// Programs of the object that finds places in code.
pub mod where_program {
    /// `tp_btf/inet_sock_set_state`: connects, and when sockets are in CLOSE_WAIT.
    pub const STATE: &str = "where_state";
    /// `tp_btf/sock_recv_length`: reads (Linux 6.3).
    pub const READ: &str = "where_read";
    /// `fexit/tcp_recvmsg`: reads, where the function has six arguments (before Linux 5.19).
    pub const READ_EXIT_6: &str = "where_read6";
    /// `fexit/tcp_recvmsg`: reads, where it has five.
    pub const READ_EXIT_5: &str = "where_read5";
    /// `tp_btf/sys_exit`: reads, at a cost for every system call of the host.
    pub const READ_SYSCALL: &str = "where_syscall";
    /// `fexit/inet_csk_accept`: accepts, where the function has four arguments (before 6.10).
    pub const ACCEPT_EXIT_4: &str = "where_accept4";
    /// `fexit/inet_csk_accept`: accepts, where it has two.
    pub const ACCEPT_EXIT_2: &str = "where_accept2";
    /// `tracepoint/syscalls/sys_exit_accept` and `…accept4`: accepts, at a cost for every system
    /// call of the host.
    pub const ACCEPT_SYSCALL: &str = "where_accepted";
    /// `tp_btf/sys_exit`: the same, at a greater cost, where there is no tracefs.
    pub const ACCEPT_EVERY_SYSCALL: &str = "where_accexit";
    /// `iter/task`: the registers of all threads.
    pub const THREADS: &str = "where_threads";
}

/// Maps of that object.
pub mod where_map {
    /// Hash from a socket's address to its [`SocketTrace`](crate::SocketTrace).
    pub const SOCKETS: &str = "WHERE_SOCKETS";
    /// Ring buffer of samples.
    pub const SAMPLES: &str = "WHERE_SAMPLES";
    /// Per-CPU array of one [`SampleAccount`](crate::SampleAccount).
    pub const ACCOUNT: &str = "WHERE_ACCOUNT";
    /// Hash of instruction pointers whose stacks are longer than [`SHORT_STACK`](crate::SHORT_STACK).
    pub const LONG_STACKS: &str = "WHERE_LONG";
    /// Array of one [`PythonLayout`](crate::PythonLayout).
    pub const PYTHON: &str = "WHERE_PYTHON";
}

/// Globals of that object, besides the offsets of [`WHERE_FIELDS`].
pub mod where_global {
    /// `u32`: the process to watch.
    pub const PROCESS: &str = "WATCHED";
    /// `u32`: bytes of the architecture's `struct pt_regs`.
    pub const REGISTERS_BYTES: &str = "REGISTERS_BYTES";
    /// `u32`: where in it the stack pointer is.
    pub const STACK_POINTER: &str = "STACK_POINTER";
    /// `u32`: where in it the instruction pointer is.
    pub const INSTRUCTION_POINTER: &str = "INSTR_POINTER";
    /// `u32`: where in it the number of the system call is.
    pub const SYSCALL_NUMBER: &str = "SYSCALL_NUMBER";
    /// `u32`: where in it the system call's first argument is, still when it returns.
    pub const FIRST_ARGUMENT: &str = "FIRST_ARGUMENT";
    /// `u32`: bytes of a kernel stack, at whose end the registers are; 0 where a helper gives them.
    pub const KERNEL_STACK: &str = "KERNEL_STACK";
    /// `[u32; 8]`: numbers of the system calls that read, unused ones `u32::MAX`.
    pub const READ_CALLS: &str = "READ_CALLS";
    /// `[u32; 2]`: numbers of the system calls that accept.
    pub const ACCEPT_CALLS: &str = "ACCEPT_CALLS";
}

/// The kernel's fields that these programs read. `TASK_POINTER` is another field on each
/// architecture, and in no list.
pub const WHERE_FIELDS: &[KernelField] = fields! {
    SK_STATE: "sock_common"."skc_state", 1;
    SK_FAMILY: "sock_common"."skc_family", 2;
    SK_NET: "sock_common"."skc_net.net", 8;
    SK_NUM: "sock_common"."skc_num", 2;
    SK_DPORT: "sock_common"."skc_dport", 2;
    SK_DADDR: "sock_common"."skc_daddr", 4;
    SK_RCV_SADDR: "sock_common"."skc_rcv_saddr", 4;
    SK_V6_DADDR: "sock_common"."skc_v6_daddr", 16;
    SK_V6_RCV_SADDR: "sock_common"."skc_v6_rcv_saddr", 16;
    SK_PROTOCOL: "sock"."sk_protocol", 2;
    NET_INUM: "net"."ns.inum", 4;
    TASK_PID: "task_struct"."pid", 4;
    TASK_TGID: "task_struct"."tgid", 4;
    TASK_STACK: "task_struct"."stack", 8;
    TASK_FILES: "task_struct"."files", 8;
    FILES_TABLE: "files_struct"."fdt", 8;
    TABLE_FILES: "fdtable"."fd", 8;
    TABLE_SIZE: "fdtable"."max_fds", 4;
    FILE_INODE: "file"."f_inode", 8;
    FILE_PRIVATE: "file"."private_data", 8;
    INODE_MODE: "inode"."i_mode", 2;
    SOCKET_SK: "socket"."sk", 8;
    SEQ_FILE: "bpf_iter_meta"."seq", 8;
    // Where the kernel has Multipath TCP.
    TCP_IS_MPTCP optional: "tcp_sock"."is_mptcp", 1;
    SK_ULP_DATA optional: "inet_connection_sock"."icsk_ulp_data", 8;
    SUBFLOW_PARENT optional: "mptcp_subflow_context"."conn", 8;
};

/// Where a thread's pointer to its own data is, on x86-64.
pub const THREAD_POINTER_X86_64: KernelField = KernelField {
    global: "THREAD_POINTER",
    structure: "task_struct",
    paths: &["thread.fsbase"],
    size: 8,
    is_optional: true,
};

/// The same on arm64.
pub const THREAD_POINTER_ARM64: KernelField = KernelField {
    global: "THREAD_POINTER",
    structure: "task_struct",
    paths: &["thread.uw.tp_value"],
    size: 8,
    is_optional: true,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_from_its_own_number_only() {
        for kind in SampleKind::ALL {
            assert_eq!(SampleKind::from_record(kind as u32), Some(kind));
        }
        assert_eq!(SampleKind::from_record(4), None);
        assert_eq!(SampleKind::from_record(u32::MAX), None);
    }

    #[test]
    fn accounts_of_cpus_add_up() {
        let one = SampleAccount {
            seen: [1, 2, 3, 4],
            copied: 5,
            refused: 6,
            lost: 7,
            untracked: 8,
            mptcp: 9,
            entered: 10,
            left: 11,
        };
        let mut sum = one;
        sum.add(&one);
        assert_eq!(sum.seen, [2, 4, 6, 8]);
        let all = [
            sum.copied,
            sum.refused,
            sum.lost,
            sum.untracked,
            sum.mptcp,
            sum.entered,
            sum.left,
        ];
        assert_eq!(all, [10, 12, 14, 16, 18, 20, 22]);
    }
}
