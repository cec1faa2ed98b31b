//! `iter/task`: the registers of all threads of the watched process, as they were when each entered
//! the kernel.

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_seq_write, bpf_task_pt_regs},
};
use tcpstate_common::{MISSING, REGISTER_WORDS, ThreadRecord};

use crate::kernel::{Registers, is_watched, numbers, thread_pointer};

/// Where `struct bpf_iter_meta` has the file that the agent reads from.
#[unsafe(no_mangle)]
static SEQ_FILE: Global<u32> = Global::new(MISSING);

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn where_threads(ctx: *const *const u8) -> i32 {
    // SAFETY: the kernel calls the program with a context whose members are `meta` and `task`. Each
    // is loaded once: to the verifier a second load would be another pointer that may be null.
    let task = unsafe { ctx.wrapping_add(1).read_volatile() };
    if task.is_null() {
        return 0;
    }
    let Some((process, thread)) = numbers(task as u64) else {
        return 0;
    };
    if !is_watched(process) {
        return 0;
    }
    let registers = if Registers::are_at_end_of_stack() {
        Registers::at_end_of_stack(task as u64)
    } else {
        // SAFETY: the context's pointer is a `struct task_struct *` and not null.
        let address = unsafe { bpf_task_pt_regs(task.cast_mut().cast()) };
        Some(Registers::at(address.cast_unsigned()))
    };
    let mut record = ThreadRecord {
        thread,
        padding: 0,
        thread_pointer: thread_pointer(task as u64).unwrap_or(0),
        registers: [0; REGISTER_WORDS],
    };
    if !registers.is_some_and(|registers| registers.copy(&mut record.registers)) {
        return 0;
    }
    // SAFETY: `meta` is never null, and a member of it is the file.
    let meta = unsafe { ctx.read_volatile() };
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "a member is aligned as its type is"
    )]
    let file = meta
        .wrapping_add(SEQ_FILE.load() as usize)
        .cast::<*mut u8>();
    // SAFETY: the verifier knows `meta` by its type, and refuses the program unless the offset, a
    // constant to it, is that of the file.
    let file = unsafe { file.read_volatile() };
    #[expect(clippy::cast_possible_truncation, reason = "some 300 bytes")]
    let length = size_of::<ThreadRecord>() as u32;
    // SAFETY: `file` is the iterator's `struct seq_file *`, and the helper copies the record's
    // bytes. Where they do not fit, the kernel calls again for this task.
    unsafe { bpf_seq_write(file.cast(), (&raw mut record).cast(), length) };
    0
}
