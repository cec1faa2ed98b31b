//! What each CPU counts for the whole machine.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcpstate_common::CpuCounters;

#[map]
static COUNTERS: PerCpuArray<CpuCounters> = PerCpuArray::with_max_entries(1, 0);

/// Those of this CPU. Only the program that runs has them: the transition program is not
/// interrupted on its CPU by another run of its own, and a reset that interrupts it finds no end to
/// correct, because the end of its socket was not seen.
#[inline(always)]
pub(crate) fn of_this_cpu() -> Option<&'static mut CpuCounters> {
    let counters = COUNTERS.get_ptr_mut(0)?;
    // SAFETY: the map gave this CPU's element, which no other CPU writes, and lives as long as the
    // program.
    Some(unsafe { &mut *counters })
}
