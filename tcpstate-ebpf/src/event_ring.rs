//! The ring buffer of transition records, and the account of what became of them:
//! `emitted = read by the agent + lost`.

use aya_ebpf::{
    Global,
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use tcpstate_common::{EventCounters, TransitionRecord};

/// The agent sets the size when it loads the programs.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(512 * 1024, 0);

#[map]
static EVENT_COUNTERS: PerCpuArray<EventCounters> = PerCpuArray::with_max_entries(1, 0);

/// The reader is woken when the unread bytes come to a multiple of this, a power of two. It looks by
/// itself some times a second; this is for bursts that would fill the ring before then.
///
/// To wake it costs as much as a hundred records, so it is done once for each mark that is crossed,
/// and not for every record beyond: a reader that lags behind is awake. Where records of two CPUs
/// come at once and one mark is missed, the next one does it.
#[unsafe(no_mangle)]
static WAKE_UP_BYTES: Global<u32> = Global::new(128 * 1024);

/// What a record takes in the ring, with its header.
const RECORD_BYTES: u64 = 8 + size_of::<TransitionRecord>() as u64;

/// What a record could not do.
pub(crate) struct RingFull;

/// Puts one record into the ring.
#[inline(always)]
pub(crate) fn emit(record: TransitionRecord) -> Result<(), RingFull> {
    update(|counters| counters.emitted += 1);
    let Some(mut entry) = EVENTS.reserve::<TransitionRecord>(0) else {
        update(|counters| counters.lost += 1);
        return Err(RingFull);
    };
    entry.write(record);
    let unread = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    let mark = u64::from(WAKE_UP_BYTES.load());
    let is_crossed = unread >= mark && unread & mark.wrapping_sub(1) < RECORD_BYTES;
    entry.submit(u64::from(if is_crossed {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    }));
    Ok(())
}

/// Counts a transition whose namespace has no counters.
#[inline(never)]
pub(crate) fn count_untracked() {
    update(|counters| counters.untracked += 1);
}

/// Counts a transition between numbers that are no TCP state.
#[inline(never)]
pub(crate) fn count_unknown_state() {
    update(|counters| counters.unknown_state += 1);
}

#[inline(always)]
fn update(change: impl FnOnce(&mut EventCounters)) {
    if let Some(counters) = EVENT_COUNTERS.get_ptr_mut(0) {
        // SAFETY: the map gave this CPU's element, which no other CPU writes.
        change(unsafe { &mut *counters });
    }
}
