//! `iter/task_file`: which processes hold the sockets in CLOSE_WAIT and those that listen, in all
//! network namespaces.
//!
//! The kernel calls the program once for each open file of each process that the reader's PID
//! namespace shows. Threads that share their files with the first thread are passed over.

use aya_ebpf::Global;
use tcpstate_common::{OwnerRecord, SocketFlags, TcpState};

use crate::{
    clock,
    kernel::{AcceptQueue, File, Look, SeqFile, Task},
    stopwatch,
};

/// Where `struct bpf_iter__task_file` has its members: `meta`, `task`, `fd` and `file`, each in
/// 8 bytes ([`kernel/bpf/task_iter.c`]).
///
/// [`kernel/bpf/task_iter.c`]: https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/task_iter.c
const TASK: usize = 1;
const DESCRIPTOR: usize = 2;
const FILE: usize = 3;

/// Whether every TCP socket gets a record, or only those that have to do with CLOSE_WAIT.
#[unsafe(no_mangle)]
static EVERY_OWNER: Global<u8> = Global::new(0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn tcp_owners(ctx: *const *const u8) -> i32 {
    // SAFETY: the kernel calls the program with a context that has these members. Each is loaded
    // once: to the verifier a second load would be another pointer that may be null.
    let task = unsafe { ctx.wrapping_add(TASK).read_volatile() };
    // SAFETY: see above.
    let file = unsafe { ctx.wrapping_add(FILE).read_volatile() };
    if task.is_null() || file.is_null() {
        return 0;
    }
    // SAFETY: the context's pointer has this type and is not null.
    let task = unsafe { Task::new(task) };
    // SAFETY: see above.
    let file = unsafe { File::new(file) };
    // SAFETY: see above; it is a number of four bytes.
    let descriptor = unsafe { ctx.wrapping_add(DESCRIPTOR).cast::<u32>().read_volatile() };
    if let Some(record) = observe(task, file, descriptor) {
        // SAFETY: `ctx` is what the kernel calls an iterator program with.
        let to = unsafe { SeqFile::of(ctx) };
        // Where it does not fit, the kernel calls again for this file.
        let _ = to.write(&record);
    }
    0
}

/// Since when a socket is in CLOSE_WAIT, 0 where that is not known.
#[inline(always)]
fn since(look: &Look) -> u64 {
    stopwatch::since(look.sock.key(), clock::monotonic_ns())
}

#[inline(always)]
fn observe(task: Task, file: File, descriptor: u32) -> Option<OwnerRecord> {
    let look = file.socket()?.look()?;
    let wants_all = EVERY_OWNER.load() != 0;
    // Before anything else of the socket is looked at: nearly all end here.
    if !wants_all && !matches!(look.state, TcpState::CloseWait | TcpState::Listen) {
        return None;
    }
    let look = look.tcp()?;
    let mut record = OwnerRecord {
        unaccepted_or_descriptor: descriptor,
        ..OwnerRecord::default()
    };
    match look.state {
        TcpState::CloseWait => {
            record.socket = look.describe()?;
            record.socket.since_ns = since(&look);
            look.describe_connection(&mut record.socket, true)?;
        }
        TcpState::Listen => {
            record.socket = look.describe()?;
            record.unaccepted_or_descriptor = 0;
            if look.accept_queue_length() > 0 {
                let queue = AcceptQueue::of(look.sock).walk(record.socket.local_port);
                record.unaccepted_or_descriptor = queue.close_wait;
                if queue.is_cut {
                    record.socket.flags |= SocketFlags::QUEUE_CUT;
                }
            }
        }
        _ if wants_all => record.socket = look.describe()?,
        _ => return None,
    }
    if file.is_shared() {
        record.socket.flags |= SocketFlags::SHARED;
    }
    record.process = task.process();
    record.start_ns = task.process_start();
    Some(record)
}
