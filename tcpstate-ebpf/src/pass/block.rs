//! `read_block`: one piece of the kernel's memory, and where the program is.

use aya_ebpf::{
    helpers::{bpf_get_current_task, bpf_ktime_get_ns, generated::bpf_jiffies64},
    macros::map,
    maps::{Array, PerCpuArray},
};
use tcpstate_common::{
    ClockSample,
    pass::{BLOCK_BYTES, Block, PER_CPU_ARRAY, Place},
};

use crate::{MMAPABLE, memory::copy};

#[map]
static BLOCK: Array<Block> = Array::with_max_entries(1, MMAPABLE);

/// What it holds means nothing. Where it lies tells where the memory of each CPU is, as the kernel
/// itself reckons it.
#[map]
static PER_CPU: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn read_block(_ctx: *const u64) -> u64 {
    let Some(block) = BLOCK.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the map gave a valid element; the agent lets one run follow the other.
    let block = unsafe { &mut *block };
    block.place = Place {
        // SAFETY: the helper takes no argument and cannot fail.
        task: unsafe { bpf_get_current_task() },
        clock: ClockSample {
            // SAFETY: as above.
            monotonic_ns: unsafe { bpf_ktime_get_ns() },
            // SAFETY: as above.
            jiffies: unsafe { bpf_jiffies64() },
        },
        per_cpu_element: PER_CPU.get_ptr(0).map_or(0, |element| element as u64),
    };
    block.is_read = 0;
    let bytes = block.bytes;
    if bytes as usize > BLOCK_BYTES {
        return 1;
    }
    let to = block.words.as_mut_ptr();
    let is_read = if block.address == PER_CPU_ARRAY {
        // To the verifier this is a map and no number, so there is no other way to what is in it.
        // SAFETY: there is room for so many bytes.
        unsafe { copy(to, bytes, (&raw const PER_CPU) as u64) }
    } else {
        // SAFETY: as above.
        unsafe { copy(to, bytes, block.address) }
    };
    block.is_read = u32::from(is_read);
    0
}
