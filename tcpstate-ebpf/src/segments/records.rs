//! The ring buffer of telling segments, and the account of what became of them:
//! `telling = emitted + withheld`, `emitted = read by the agent + lost`.

use aya_ebpf::{
    Global,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use tcpstate_common::{Direction, Family, SegmentEvents, SegmentRecord, is_telling};

use crate::{packet::Packet, parse::Segment};

/// The agent sets the size when it loads the programs, and empties it by the clock.
#[map]
static SEGMENT_RING: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static SEGMENT_EVENTS: PerCpuArray<SegmentEvents> = PerCpuArray::with_max_entries(1, 0);

/// How many telling segments each CPU may record in a window. 0 where nobody wants any, and then
/// this is all that is left of the code.
#[unsafe(no_mangle)]
static RECORD_LIMIT: Global<u32> = Global::new(0);

/// Puts a record of a segment into the ring, where it tells something and is not one of too many.
#[inline(always)]
pub(crate) fn record(packet: &impl Packet, device: u32, direction: Direction, segment: &Segment) {
    let limit = RECORD_LIMIT.load();
    if limit == 0 || !is_telling(segment.flags) {
        return;
    }
    let Some(events) = SEGMENT_EVENTS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map gave this CPU's element, which no other CPU writes.
    let events = unsafe { &mut *events };
    // SAFETY: the helper takes nothing and may be called by every program.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    if !events.admit(time_ns, limit) {
        return;
    }
    // They have been there a moment ago.
    let Some(header) = packet.load::<14>(segment.transport) else {
        return;
    };
    let mut source_address = [0; 16];
    let mut destination_address = [0; 16];
    match segment.family {
        Family::Ipv4 => {
            let Some(addresses) = packet.load::<8>(segment.network + 12) else {
                return;
            };
            source_address[..4].copy_from_slice(&addresses[..4]);
            destination_address[..4].copy_from_slice(&addresses[4..]);
        }
        Family::Ipv6 => {
            let Some(addresses) = packet.load::<32>(segment.network + 8) else {
                return;
            };
            source_address.copy_from_slice(&addresses[..16]);
            destination_address.copy_from_slice(&addresses[16..]);
        }
    }
    events.emitted += 1;
    let Some(mut entry) = SEGMENT_RING.reserve::<SegmentRecord>(0) else {
        events.lost += 1;
        return;
    };
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    entry.write(SegmentRecord {
        time_ns,
        device,
        sequence: word(4),
        acknowledgment: word(8),
        source_port: u16::from_be_bytes([header[0], header[1]]),
        destination_port: u16::from_be_bytes([header[2], header[3]]),
        family: segment.family.to_kernel(),
        direction: direction as u8,
        flags: segment.flags,
        padding: [0; 5],
        source_address,
        destination_address,
    });
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}
