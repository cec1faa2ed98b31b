//! Which interfaces are counted, and their counters: one array by flags for each and each
//! direction, so that counting is one addition.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use tcpstate_common::{DeviceEntry, Direction, SegmentCounts};

#[map]
static DEVICES: Array<DeviceEntry> = Array::with_max_entries(DeviceEntry::TABLE, 0);

/// The agent sets the size when it loads the programs.
#[map]
static SEGMENTS: PerCpuArray<SegmentCounts> = PerCpuArray::with_max_entries(2, 0);

/// What the agent has said of an interface.
#[inline(always)]
pub(crate) fn find(index: u32) -> Option<DeviceEntry> {
    let mut number = 0;
    while number < DeviceEntry::PLACES {
        let entry = DEVICES.get(DeviceEntry::place(index, number))?;
        if entry.index == index {
            return Some(*entry);
        }
        number += 1;
    }
    None
}

/// This CPU's counters of an interface.
#[inline(always)]
pub(crate) fn counts(slot: u32, direction: Direction) -> Option<&'static mut SegmentCounts> {
    let element = SEGMENTS.get_ptr_mut(slot * 2 + direction as u32)?;
    // SAFETY: the map gave this CPU's element, which no other CPU writes; the programs run with
    // softirqs off, so that none interrupts another on its CPU, and the map outlives them.
    Some(unsafe { &mut *element })
}
