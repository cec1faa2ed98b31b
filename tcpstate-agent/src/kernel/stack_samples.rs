//! The programs that find places in a process's code, in an object of their own: they are in the
//! kernel only while `where` runs.

use std::{any::Any, collections::BTreeMap, io, ops::ControlFlow, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, FExit, Iter, Program, ProgramError, TracePoint},
};
use rustix::io::Errno;
use tcpstate_common::{
    KernelField, MISSING, PythonLayout, SampleAccount, SocketTrace, THREAD_POINTER_ARM64,
    THREAD_POINTER_X86_64, ThreadRecord, WHERE_FIELDS, where_global, where_map, where_program,
};
use thiserror::Error;
use tracing::debug;
use zerocopy::FromBytes;

use super::{
    facts::{Capability, Facts},
    kernel_btf::{FieldError, KERNEL_BTF, KernelBtf},
    load::{LoadError, last_words, raise_locked_memory_limit, take_map},
    wire::Wire,
};

/// Built by `cargo xtask ebpf build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf-object/where.bpf.o");

/// Read at once of an iterator's file.
const BUFFER_BYTES: usize = 64 * 1024;

/// The kernel's functions at whose end reads and accepts are seen.
const READS: &str = "tcp_recvmsg";
const ACCEPTS: &str = "inet_csk_accept";

/// How reads are seen, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadHook {
    /// The tracepoint of reads of sockets.
    SocketRead,
    /// The end of the kernel's function.
    FunctionExit,
    /// The end of every system call.
    SystemCall,
}

/// How accepts are seen, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptHook {
    /// The end of the kernel's function.
    FunctionExit,
    /// The tracepoints of the two system calls.
    SystemCall,
    /// The end of every system call.
    EverySystemCall,
}

/// What the watch is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// How reads are seen.
    pub read: ReadHook,
    /// How accepts are seen, where that was asked for.
    pub accept: Option<AcceptHook>,
}

/// Why stacks cannot be copied here.
#[derive(Debug, Error)]
pub enum StackSampleError {
    /// Permissions that are missing.
    #[error("missing {0} (run as root, or grant CAP_BPF and CAP_PERFMON)")]
    Capabilities(String),
    /// The kernel's types cannot be read.
    #[error("cannot read {KERNEL_BTF}: {0} (the kernel needs CONFIG_DEBUG_INFO_BTF)")]
    Btf(String),
    /// The kernel lacks a field.
    #[error("this kernel is laid out in another way: {0}")]
    Field(#[from] FieldError),
    /// Registers cannot be found.
    #[error("this kernel does not tell where a thread's registers are (needs Linux 5.15 on arm64)")]
    Registers,
    /// The object was refused.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// A program was refused.
    #[error("cannot attach {hook}: {cause}")]
    Program {
        /// Where to.
        hook: &'static str,
        /// Why not.
        cause: String,
    },
    /// The maps cannot be read or written.
    #[error("cannot read what the programs have seen: {0}")]
    Map(#[from] MapError),
    /// The iterator cannot be read.
    #[error("cannot read the threads: {0}")]
    Threads(io::Error),
}

/// The loaded programs. Dropping it takes them out of the kernel.
pub struct StackSamples {
    ebpf: Ebpf,
    btf: Btf,
    /// Parameters of `tcp_recvmsg` and of `inet_csk_accept`.
    parameters: [Option<usize>; 2],
    /// What is attached, for as long as it is in here.
    links: Vec<Box<dyn Any>>,
    ring: RingBuf<MapData>,
    sockets: HashMap<MapData, u64, Wire<SocketTrace>>,
    account: PerCpuArray<MapData, Wire<SampleAccount>>,
    long_stacks: HashMap<MapData, u64, u8>,
    python: Array<MapData, Wire<PythonLayout>>,
}

/// What the programs need to know of this architecture.
struct Architecture {
    /// Bytes of registers that are copied.
    registers: u32,
    stack_pointer: u32,
    instruction_pointer: u32,
    system_call: u32,
    first_argument: u32,
    /// Bytes of a kernel stack; 0 where the registers are not at its very end.
    kernel_stack: u32,
    thread_pointer: KernelField,
    /// read, readv, recvfrom and recvmsg.
    read_calls: [u32; 4],
    /// accept and accept4.
    accept_calls: [u32; 2],
}

/// `struct pt_regs` of [`arch/x86/include/asm/ptrace.h`].
///
/// [`arch/x86/include/asm/ptrace.h`]: https://github.com/torvalds/linux/blob/v6.12/arch/x86/include/asm/ptrace.h
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Architecture = Architecture {
    registers: 168,
    stack_pointer: 152,
    instruction_pointer: 128,
    system_call: 120,
    first_argument: 112,
    kernel_stack: 16 * 1024,
    thread_pointer: THREAD_POINTER_X86_64,
    read_calls: [0, 19, 45, 47],
    accept_calls: [43, 288],
};
#[cfg(not(target_arch = "x86_64"))]
const _: KernelField = THREAD_POINTER_X86_64;

/// `struct pt_regs` of [`arch/arm64/include/asm/ptrace.h`].
///
/// [`arch/arm64/include/asm/ptrace.h`]: https://github.com/torvalds/linux/blob/v6.12/arch/arm64/include/asm/ptrace.h
#[cfg(not(target_arch = "x86_64"))]
const ARCHITECTURE: Architecture = Architecture {
    registers: 272,
    stack_pointer: 248,
    instruction_pointer: 256,
    system_call: 280,
    first_argument: 272,
    kernel_stack: 0,
    thread_pointer: THREAD_POINTER_ARM64,
    read_calls: [63, 65, 207, 212],
    accept_calls: [202, 242],
};
#[cfg(target_arch = "x86_64")]
const _: KernelField = THREAD_POINTER_ARM64;

impl StackSamples {
    /// Loads the object for one process. Nothing is attached yet.
    pub fn load(process: u32) -> Result<Self, StackSampleError> {
        check_capabilities(&Facts::gather())?;
        raise_locked_memory_limit();
        let kernel = KernelBtf::open(Path::new(KERNEL_BTF))
            .map_err(|error| StackSampleError::Btf(error.to_string()))?;
        let mut offsets = BTreeMap::new();
        for field in WHERE_FIELDS.iter().chain([&ARCHITECTURE.thread_pointer]) {
            let offset = match kernel.offset(field) {
                Err(error) if field.is_optional => {
                    debug!(%error, "done without");
                    MISSING
                }
                found => found?,
            };
            offsets.insert(field.global, offset);
        }
        let has_helper = kernel.has_enum_value("bpf_func_id", "BPF_FUNC_task_pt_regs");
        let parameters = [READS, ACCEPTS].map(|function| kernel.function_parameters(function));
        drop(kernel);
        let kernel_stack = if has_helper {
            0
        } else if ARCHITECTURE.kernel_stack == 0 {
            return Err(StackSampleError::Registers);
        } else {
            ARCHITECTURE.kernel_stack
        };
        let mut read_calls = [u32::MAX; 8];
        read_calls[..4].copy_from_slice(&ARCHITECTURE.read_calls);
        let read_calls = Wire(read_calls);
        let accept_calls = Wire(ARCHITECTURE.accept_calls);
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global(where_global::PROCESS, &process, true)
            .override_global(where_global::REGISTERS_BYTES, &ARCHITECTURE.registers, true)
            .override_global(
                where_global::STACK_POINTER,
                &ARCHITECTURE.stack_pointer,
                true,
            )
            .override_global(
                where_global::INSTRUCTION_POINTER,
                &ARCHITECTURE.instruction_pointer,
                true,
            )
            .override_global(
                where_global::SYSCALL_NUMBER,
                &ARCHITECTURE.system_call,
                true,
            )
            .override_global(
                where_global::FIRST_ARGUMENT,
                &ARCHITECTURE.first_argument,
                true,
            )
            .override_global(where_global::KERNEL_STACK, &kernel_stack, true)
            .override_global(where_global::READ_CALLS, &read_calls, true)
            .override_global(where_global::ACCEPT_CALLS, &accept_calls, true);
        for (name, offset) in &offsets {
            loader.override_global(name, offset, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(LoadError::from)?;
        let btf = Btf::parse_file(Path::new(KERNEL_BTF), Endianness::default())
            .map_err(|error| StackSampleError::Btf(error.to_string()))?;
        Ok(Self {
            ring: take_map(&mut ebpf, where_map::SAMPLES)?,
            sockets: take_map(&mut ebpf, where_map::SOCKETS)?,
            account: take_map(&mut ebpf, where_map::ACCOUNT)?,
            long_stacks: take_map(&mut ebpf, where_map::LONG_STACKS)?,
            python: take_map(&mut ebpf, where_map::PYTHON)?,
            ebpf,
            btf,
            parameters,
            links: Vec::new(),
        })
    }

    /// Tells the programs how the process's Python keeps its frames.
    pub fn follow_python(&mut self, layout: PythonLayout) -> Result<(), StackSampleError> {
        Ok(self.python.set(0, Wire(layout), 0)?)
    }

    /// Begins to watch.
    pub fn attach(&mut self, accepts: bool) -> Result<Hooks, StackSampleError> {
        let state = "tp_btf/inet_sock_set_state";
        self.attach_tracepoint(where_program::STATE, "inet_sock_set_state")
            .map_err(|error| refusal(state, &error))?;
        let read = self.attach_reads()?;
        let accept = accepts.then(|| self.attach_accepts()).transpose()?;
        Ok(Hooks { read, accept })
    }

    fn attach_reads(&mut self) -> Result<ReadHook, StackSampleError> {
        let tried = self.attach_tracepoint(where_program::READ, "sock_recv_length");
        let Err(error) = tried else {
            return Ok(ReadHook::SocketRead);
        };
        debug!(%error, "no tracepoint of reads");
        // What a function returns is behind its arguments. The kernel lets a program read an
        // argument where it expects the result.
        let program = match self.parameters[0] {
            Some(6) => Some(where_program::READ_EXIT_6),
            Some(5) => Some(where_program::READ_EXIT_5),
            _ => None,
        };
        if self.attach_known(program, READS) {
            return Ok(ReadHook::FunctionExit);
        }
        self.attach_tracepoint(where_program::READ_SYSCALL, "sys_exit")
            .map_err(|error| refusal("tp_btf/sys_exit", &error))?;
        Ok(ReadHook::SystemCall)
    }

    fn attach_accepts(&mut self) -> Result<AcceptHook, StackSampleError> {
        let program = match self.parameters[1] {
            Some(4) => Some(where_program::ACCEPT_EXIT_4),
            Some(2) => Some(where_program::ACCEPT_EXIT_2),
            _ => None,
        };
        if self.attach_known(program, ACCEPTS) {
            return Ok(AcceptHook::FunctionExit);
        }
        match self.attach_accept_calls() {
            Ok(()) => return Ok(AcceptHook::SystemCall),
            Err(error) => debug!(%error, "no tracepoints of accept"),
        }
        self.attach_tracepoint(where_program::ACCEPT_EVERY_SYSCALL, "sys_exit")
            .map_err(|error| refusal("tp_btf/sys_exit", &error))?;
        Ok(AcceptHook::EverySystemCall)
    }

    fn attach_accept_calls(&mut self) -> Result<(), ProgramError> {
        let program: &mut TracePoint =
            program(&mut self.ebpf, where_program::ACCEPT_SYSCALL)?.try_into()?;
        program.load()?;
        // Both or none: with one of them some accepts would be seen.
        let mut links: Vec<Box<dyn Any>> = Vec::new();
        for name in ["sys_exit_accept", "sys_exit_accept4"] {
            let link = program.attach("syscalls", name)?;
            links.push(Box::new(program.take_link(link)?));
        }
        self.links.extend(links);
        Ok(())
    }

    fn attach_tracepoint(&mut self, name: &str, to: &str) -> Result<(), ProgramError> {
        let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?.try_into()?;
        program.load(to, &self.btf)?;
        let link = program.attach()?;
        self.links.push(Box::new(program.take_link(link)?));
        Ok(())
    }

    /// Whether there is a program for the function as this kernel has it, and it is attached.
    fn attach_known(&mut self, program: Option<&'static str>, to: &str) -> bool {
        let Some(program) = program else {
            debug!(to, "has other parameters than are known, or is not there");
            return false;
        };
        self.attach_function(program, to)
            .inspect_err(|error| debug!(program, %error, "not attached"))
            .is_ok()
    }

    fn attach_function(&mut self, name: &str, to: &str) -> Result<(), ProgramError> {
        let program: &mut FExit = program(&mut self.ebpf, name)?.try_into()?;
        program.load(to, &self.btf)?;
        let link = program.attach()?;
        self.links.push(Box::new(program.take_link(link)?));
        Ok(())
    }

    /// Ends the watch. What was seen can still be read.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// Hands the samples that are in the ring to `take`, oldest first, as bytes, until that has
    /// enough.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8]) -> ControlFlow<()>) {
        while let Some(record) = self.ring.next() {
            if take(&record).is_break() {
                break;
            }
        }
    }

    /// Has more of the stack copied where a system call is made from this place in the code. Beyond
    /// the number of places that fit nothing changes.
    pub fn copy_more_at(&mut self, place: u64) {
        if let Err(error) = self.long_stacks.insert(place, 1, 0) {
            debug!(%error, "no longer copies from this place");
        }
    }

    /// What was seen of each socket that is open, by the address of its `struct sock`.
    #[must_use]
    pub fn sockets(&self) -> Vec<(u64, SocketTrace)> {
        self.sockets
            .iter()
            .filter_map(|entry| entry.ok().map(|(socket, Wire(trace))| (socket, trace)))
            .collect()
    }

    /// What became of the events.
    pub fn account(&self) -> Result<SampleAccount, StackSampleError> {
        let mut sum = SampleAccount::default();
        for Wire(cpu) in self.account.get(&0, 0)?.iter() {
            sum.add(cpu);
        }
        Ok(sum)
    }

    /// The registers of all threads of the process, as they were when each entered the kernel.
    pub fn threads(&mut self) -> Result<Vec<ThreadRecord>, StackSampleError> {
        let hook = "iter/task";
        let program: &mut Iter = program(&mut self.ebpf, where_program::THREADS)
            .and_then(TryInto::try_into)
            .map_err(|error| refusal(hook, &error))?;
        if program.fd().is_err() {
            program
                .load("task", &self.btf)
                .map_err(|error| refusal(hook, &error))?;
        }
        let link = program
            .attach()
            .and_then(|link| program.take_link(link))
            .map_err(|error| refusal(hook, &error))?;
        let file = link
            .into_file()
            .map_err(|error| StackSampleError::Threads(io::Error::other(error)))?;
        let mut threads = Vec::new();
        read_records(file, |record| threads.push(record)).map_err(StackSampleError::Threads)?;
        Ok(threads)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)
}

fn check_capabilities(facts: &Facts) -> Result<(), StackSampleError> {
    let needed = [Capability::Bpf, Capability::Perfmon];
    let missing = facts.capabilities.missing(&needed);
    missing.map_or(Ok(()), |missing| {
        Err(StackSampleError::Capabilities(missing))
    })
}

fn refusal(hook: &'static str, error: &ProgramError) -> StackSampleError {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return StackSampleError::Program {
            hook,
            cause: error.to_string(),
        };
    };
    debug!(hook, %verifier_log, "the verifier's words");
    let words = verifier_log.to_string();
    let cause = match last_words(&words) {
        _ if io_error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            format!("{io_error} (look for what forbids BPF here: seccomp, an LSM, lockdown)")
        }
        Some(words) => format!("the kernel refuses the program: {io_error}: {words}"),
        None => format!("the kernel refuses the program: {io_error}"),
    };
    StackSampleError::Program { hook, cause }
}

/// Reads an iterator's file to its end and hands over the records in it. The reading is the walk.
///
/// One `read()` visits at most a million sockets and, where nothing was written, then fails with
/// `EAGAIN`, to be called again ([`kernel/bpf/bpf_iter.c`], `MAX_ITER_OBJECTS`).
///
/// [`kernel/bpf/bpf_iter.c`]: https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/bpf_iter.c
fn read_records<T: FromBytes>(mut file: impl io::Read, mut each: impl FnMut(T)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        match file.read(&mut buffer[filled..]) {
            Ok(0) if filled > 0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the last record is cut off",
                ));
            }
            Ok(0) => return Ok(()),
            Ok(bytes) => filled += bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        let whole = filled - filled % size_of::<T>();
        let records = buffer[..whole].chunks_exact(size_of::<T>());
        records
            .filter_map(|bytes| T::read_from_bytes(bytes).ok())
            .for_each(&mut each);
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}
