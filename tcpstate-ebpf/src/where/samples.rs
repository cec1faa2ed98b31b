//! Copies of registers and stacks, within a budget.

use core::arch::asm;

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_probe_read_user},
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use tcpstate_common::{LONG_STACK, SHORT_STACK, SampleAccount, SampleHeader, SampleKind};

use crate::{
    kernel::{Registers, Thread},
    python,
};

/// 8 MiB: what the budget below lets through at once, and twice that.
#[map]
static WHERE_SAMPLES: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

#[map]
static WHERE_ACCOUNT: PerCpuArray<SampleAccount> = PerCpuArray::with_max_entries(1, 0);

/// How many samples have been begun, on all CPUs.
#[map]
static WHERE_SEQUENCE: Array<u64> = Array::with_max_entries(1, 0);

/// Until when the budget is spent, in nanoseconds. Two CPUs may now and then take the same part.
#[map]
static WHERE_BUDGET: Array<u64> = Array::with_max_entries(1, 0);

/// Where in the code a system call is made with more stack above it than a short copy holds; the
/// agent writes it.
#[map]
static WHERE_LONG: HashMap<u64, u8> = HashMap::with_max_entries(256, 0);

/// 500 short copies a second, and 200 at once.
const NS_PER_COPY: u64 = 2_000_000;
const BURST_NS: u64 = 200 * NS_PER_COPY;
/// A long copy counts as so many.
const LONG_COPIES: u64 = (LONG_STACK / SHORT_STACK) as u64;

/// Ten bits of a sample's name.
const THREAD_BITS: u32 = 10;

/// Smaller pieces are not tried.
const SMALLEST_PIECE: usize = 64;

#[repr(C)]
struct Sample<const STACK: usize> {
    header: SampleHeader,
    stack: [u8; STACK],
}

/// This CPU's account.
#[inline(always)]
pub(crate) fn account(change: impl FnOnce(&mut SampleAccount)) {
    if let Some(account) = WHERE_ACCOUNT.get_ptr_mut(0) {
        // SAFETY: the map gave this CPU's element. A program that interrupts this one on its CPU
        // may make it lose a count, no more.
        change(unsafe { &mut *account });
    }
}

#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// Copies the stack of the thread that runs; the sample's name, or 0 where there is none.
#[inline(always)]
pub(crate) fn take(thread: Thread, registers: Registers, kind: SampleKind) -> u32 {
    let Some(place) = registers.instruction_pointer() else {
        return 0;
    };
    // SAFETY: the value is not looked at.
    let is_long = unsafe { WHERE_LONG.get(place) }.is_some();
    if !admit(if is_long { LONG_COPIES } else { 1 }) {
        account(|account| account.refused += 1);
        return 0;
    }
    let name = if is_long {
        copy::<LONG_STACK>(thread, registers, kind)
    } else {
        copy::<SHORT_STACK>(thread, registers, kind)
    };
    if name == 0 {
        account(|account| account.lost += 1);
    } else {
        account(|account| account.copied += 1);
    }
    name
}

/// Whether so many copies are within the budget; takes them from it.
#[inline(always)]
fn admit(copies: u64) -> bool {
    let Some(spent) = WHERE_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    let now = now_ns();
    // SAFETY: the map gave a whole element; see there for who else writes it.
    let spent = unsafe { &mut *spent };
    let from = if *spent < now { now } else { *spent };
    if from - now > BURST_NS {
        return false;
    }
    *spent = from + copies * NS_PER_COPY;
    true
}

#[inline(always)]
fn copy<const STACK: usize>(thread: Thread, registers: Registers, kind: SampleKind) -> u32 {
    let Some(name) = next_name(thread) else {
        return 0;
    };
    let Some(from) = registers.stack_pointer() else {
        return 0;
    };
    let Some(mut entry) = WHERE_SAMPLES.reserve::<Sample<STACK>>(0) else {
        return 0;
    };
    // SAFETY: the ring's memory is never uninitialised, it holds zeros or an older record; and any
    // bytes are a valid sample, which has numbers only.
    let sample = unsafe { entry.assume_init_mut() };
    let header = &mut sample.header;
    header.id = name;
    header.thread = thread.number;
    header.kind = kind as u32;
    header.python_frames = 0;
    header.python_is_cut = 0;
    if !registers.copy(&mut header.registers) {
        entry.discard(0);
        return 0;
    }
    header.stack_bytes = copy_stack(&mut sample.stack, from);
    python::walk(thread, header);
    entry.submit(0);
    name
}

/// Copies what there is of the stack: a copy is whole or fails, so the pieces are halved where the
/// stack ends.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "at most LONG_STACK")]
fn copy_stack<const STACK: usize>(to: &mut [u8; STACK], from: u64) -> u32 {
    let to = to.as_mut_ptr();
    // SAFETY: `to` is the array; the helper checks the address that it reads.
    if unsafe { bpf_probe_read_user(to.cast(), STACK as u32, from as *const _) } == 0 {
        return STACK as u32;
    }
    let mut copied = 0_usize;
    let mut piece = STACK / 2;
    while piece >= SMALLEST_PIECE {
        if copied > STACK - piece {
            break;
        }
        let place = to.wrapping_add(copied);
        let from = from.wrapping_add(copied as u64);
        // SAFETY: `copied + piece` is within the array, see above; the helper checks the address
        // that it reads.
        if unsafe { bpf_probe_read_user(place.cast(), piece as u32, from as *const _) } == 0 {
            copied += piece;
        }
        piece /= 2;
    }
    copied as u32
}

/// A number that no other of the last four million samples has.
///
/// Kernels before 5.12 can add to a number that other CPUs add to, and not tell what it was before.
/// So two threads may read the same, one thread never twice: part of its own number makes the
/// difference, unless those of two threads at the same nanoseconds are alike in it.
#[inline(always)]
fn next_name(thread: Thread) -> Option<u32> {
    let begun = WHERE_SEQUENCE.get_ptr_mut(0)?;
    // SAFETY: the map gave a whole element, which begins at a multiple of 8. Other CPUs may add to
    // it meanwhile, for which the instruction is made. The target has no atomic types.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) begun, in(reg) 1_u64) };
    // SAFETY: as above; every value is valid.
    let begun = unsafe { begun.read_volatile() };
    #[expect(clippy::cast_possible_truncation, reason = "it goes around")]
    let name = (begun as u32) << THREAD_BITS | thread.number & ((1 << THREAD_BITS) - 1);
    // 0 is for none.
    (name != 0).then_some(name)
}
