//! `read_table`: the objects in a range of buckets of one of the kernel's hash tables.
//!
//! Buckets are taken in groups, and the chains of a group are followed side by side, a step each in
//! turn. A chain is only believed where it ends with the number of its bucket and every object in
//! it belongs there; a socket that moves to another bucket takes whoever is at it along.
//!
//! What is called in a loop is a global function: the verifier looks at it once, and not at each
//! turn. Such a function gets and gives numbers, so all else is in the map.

use aya_ebpf::{macros::map, maps::Array};
use tcpstate_common::pass::{
    BUCKET_WORDS, HEAD_BYTES, MAX_CHAIN, MAX_GROUPS, MAX_LANES, MAX_UNREAD, ROOM_FOR_GROUP, Table,
};

use crate::{
    MMAPABLE,
    memory::{copy, fetch_lines, opaque, word},
    objects,
};

#[map]
static TABLE: Array<Table> = Array::with_max_entries(1, MMAPABLE);

/// The table, or the function's end: there is always one.
macro_rules! table {
    () => {
        match TABLE.get_ptr_mut(0) {
            // SAFETY: the map gave a valid element; the agent lets one run follow the other.
            Some(table) => unsafe { &mut *table },
            None => return DONE,
        }
    };
}

/// What the functions give: whether there is more to do.
const MORE: u64 = 0;
const DONE: u64 = 1;

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn read_table(_ctx: *const u64) -> u64 {
    let table = table!();
    table.objects.count = 0;
    table.unread = 0;
    table.goes_on = 0;
    table.next = table.request.first;
    table.is_gone = u32::from(!is_there(table));
    if table.is_gone != 0 {
        return DONE;
    }
    for _ in 0..MAX_GROUPS {
        if table_group() == DONE {
            break;
        }
    }
    MORE
}

/// Whether the namespace is still there that the table goes with. Then it stays for as long as the
/// program runs: the kernel waits for that between unlinking a namespace and taking it apart
/// (`cleanup_net()`).
#[inline(always)]
fn is_there(table: &Table) -> bool {
    let owner = table.request.owner;
    owner == 0
        || (word(table.request.cookie_at) == Some(table.request.cookie)
            && word(owner + 8).and_then(word) == Some(owner))
}

/// Reads a group of buckets.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_group() -> u64 {
    let table = table!();
    if table.next >= table.request.end || table.objects.count > 2 * ROOM_FOR_GROUP {
        return DONE;
    }
    let began = if table.request.after == 0 {
        table_begin()
    } else {
        table_go_on()
    };
    if began == DONE {
        return DONE;
    }
    if table.lanes == 0 {
        return MORE;
    }
    for _ in 0..MAX_CHAIN {
        if table_round() == DONE {
            return MORE;
        }
    }
    // Of several chains, those that are too long are left. One alone can be gone on with.
    if table.request.end - table.request.first == 1 {
        table.goes_on = 1;
        return DONE;
    }
    for lane in 0..MAX_LANES as u64 {
        table_leave(lane);
    }
    MORE
}

/// Takes the next buckets, and puts those that have a chain into the lanes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_begin() -> u64 {
    let table = table!();
    let (first, end) = (table.next, table.request.end);
    let stride = table.request.stride;
    let wanted = u64::from(table.request.lanes);
    let from = table.request.buckets + u64::from(first) * u64::from(stride);
    let left = end.saturating_sub(first).min(table.request.lanes);
    let mut bytes = opaque(u64::from(left) * u64::from(stride));
    if bytes > BUCKET_WORDS as u64 * 8 {
        bytes = BUCKET_WORDS as u64 * 8;
    }
    // SAFETY: there is room for so many bytes.
    if !unsafe { copy(table.raw_buckets.as_mut_ptr(), bytes as u32, from) } {
        table.is_gone = 1;
        return DONE;
    }
    table.next = first + table.request.lanes;
    table.lanes = 0;
    let step = u64::from(stride / 8);
    let end_step = table.request.end_step;
    let begin = u64::from(table.request.chain / 8);
    // Most buckets of a host with few sockets are empty.
    let (mut any, mut place) = (0, begin);
    let first_empty = end_of(table, first);
    let mut empty = first_empty;
    for _ in 0..MAX_LANES {
        any |= table.raw_buckets[place as usize & (BUCKET_WORDS - 1)] ^ empty;
        place += step;
        empty = empty.wrapping_add(end_step);
    }
    if any == 0 {
        return MORE;
    }
    // Without a branch but the way out: to the verifier each would be another path through the loop.
    let (mut lanes, mut place, mut bucket) = (0, begin, u64::from(first));
    let mut empty = first_empty;
    for lane in 0..MAX_LANES as u64 {
        if lane >= wanted {
            break;
        }
        let node = table.raw_buckets[opaque(place) as usize & (BUCKET_WORDS - 1)];
        let differs = opaque(node ^ empty);
        // The highest bit of each tells.
        let is_occupied = differs | differs.wrapping_neg();
        let is_asked = bucket.wrapping_sub(u64::from(end));
        let to = opaque(lanes) as usize & (MAX_LANES - 1);
        table.nodes[to] = node;
        table.lane_buckets[to] = bucket as u32;
        lanes += opaque(is_occupied & is_asked) >> 63;
        place += step;
        bucket += 1;
        empty = empty.wrapping_add(end_step);
    }
    table.lanes = lanes as u32;
    MORE
}

/// Goes on in a chain, behind a node that has to be linked still.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_go_on() -> u64 {
    let table = table!();
    let (after, bucket) = (table.request.after, table.request.first);
    table.next = bucket + 1;
    table.lanes = 0;
    // Both kinds of list have a pointer to what points to the node behind that to the next.
    if word(after + 8).and_then(word) != Some(after) {
        leave(table, bucket);
        return MORE;
    }
    let Some(node) = word(after) else {
        leave(table, bucket);
        return MORE;
    };
    table.nodes[0] = node;
    table.lane_buckets[0] = bucket;
    table.lanes = 1;
    MORE
}

/// One step along each chain.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_round() -> u64 {
    let table = table!();
    table.going = 0;
    let lanes = u64::from(table.lanes);
    table_fetch();
    for lane in 0..MAX_LANES as u64 {
        if lane >= lanes {
            break;
        }
        table_step(lane);
    }
    table.lanes = table.going;
    if table.going == 0 { DONE } else { MORE }
}

/// Asks for the memory of the next object of each chain. A step is so long that the processor is at
/// no more than two of them at a time, and here at eight.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_fetch() -> u64 {
    let table = table!();
    let lanes = u64::from(table.lanes);
    let node = u64::from(table.request.node);
    for lane in 0..MAX_LANES as u64 {
        if lane >= lanes {
            break;
        }
        fetch_lines(table.nodes[lane as usize & (MAX_LANES - 1)].wrapping_sub(node));
    }
    DONE
}

/// One step along a chain.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_step(lane: u64) -> u64 {
    let table = table!();
    let lane = lane as usize & (MAX_LANES - 1);
    let (node, bucket) = (table.nodes[lane], table.lane_buckets[lane]);
    if has_ended(table, node, bucket) {
        return DONE;
    }
    let address = node.wrapping_sub(u64::from(table.request.node));
    let Some(number) = objects::take_head(&mut table.objects, address) else {
        leave(table, bucket);
        return DONE;
    };
    let mask = table.request.mask;
    if mask != 0 && objects::half(&table.objects.heads[number], table.request.hash) & mask != bucket
    {
        leave(table, bucket);
        return DONE;
    }
    let next = if table.request.node < HEAD_BYTES as u32 {
        objects::word(&table.objects.heads[number], table.request.node)
    } else {
        word(node).unwrap_or(0)
    };
    table.buckets[number] = bucket;
    objects::keep(&mut table.objects, &table.request.wanted, number, address);
    if has_ended(table, next, bucket) {
        return DONE;
    }
    let going = table.going as usize & (MAX_LANES - 1);
    table.nodes[going] = next;
    table.lane_buckets[going] = bucket;
    table.going += 1;
    MORE
}

/// Leaves a chain that is too long.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_leave(lane: u64) -> u64 {
    let table = table!();
    if lane < u64::from(table.lanes) {
        let bucket = table.lane_buckets[lane as usize & (MAX_LANES - 1)];
        leave(table, bucket);
    }
    DONE
}

/// Whether this is no node but the end of a chain. One that is not the end of this bucket's chain
/// leaves it.
#[inline(always)]
fn has_ended(table: &mut Table, node: u64, bucket: u32) -> bool {
    // Memory that was freed may read as zeros, which end no chain of the first kind.
    if node & 1 == 0 && node != 0 {
        return false;
    }
    if node != end_of(table, bucket) {
        leave(table, bucket);
    }
    true
}

/// What the chain of a bucket ends with.
#[inline(always)]
fn end_of(table: &Table, bucket: u32) -> u64 {
    let more = u64::from(bucket).wrapping_mul(table.request.end_step);
    table.request.end_base.wrapping_add(more)
}

#[inline(always)]
fn leave(table: &mut Table, bucket: u32) {
    let number = table.unread as usize;
    if number < MAX_UNREAD {
        table.unread_buckets[number] = bucket;
    }
    table.unread += 1;
}
