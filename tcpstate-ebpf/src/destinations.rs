//! Outgoing connections by where they go. Part of a pass of `iter/tcp`.
//!
//! One table for all passes, since only one runs at a time: what is in it says from which pass it
//! is. Where it is full, the smallest make room, one after the other, and what they had is counted
//! as unplaced: the kernel's table of sockets has those of one destination close to each other since
//! Linux 6.15, so that one which matters can be the last to come.

use aya_ebpf::{macros::map, maps::Array};
use tcpstate_common::{
    DESTINATIONS_TOGETHER, Destination, Destinations, Family, INDEX_LINES, INDEX_WORDS,
    KEPT_DESTINATION, MAX_DESTINATIONS, Place, SocketCounts, TcpState, Way,
};

use crate::{
    kernel::{BindBucket, Sock, TimewaitSock},
    ports::{Given, Port},
};

/// Lines of words that lead to the entries.
#[map]
static DEST_INDEX: Array<[u64; INDEX_WORDS]> = Array::with_max_entries(INDEX_LINES, 0);

#[map]
static DESTINATIONS: Array<Destinations> = Array::with_max_entries(MAX_DESTINATIONS / TOGETHER, 0);

#[expect(clippy::cast_possible_truncation, reason = "they are 64")]
const TOGETHER: u32 = DESTINATIONS_TOGETHER as u32;

/// Counts a socket on whose local port nothing listens. `mini` is the socket where it is a
/// minisocket.
#[inline(always)]
pub(crate) fn count(
    sock: Sock,
    family: Family,
    state: TcpState,
    mini: Option<TimewaitSock>,
    port: &mut Port,
    counts: &mut SocketCounts,
) {
    // What is left of a listener that has closed, and nothing at all.
    if matches!(state, TcpState::NewSynRecv | TcpState::Close) {
        return;
    }
    let holds = port.can_be_chosen() && given(sock, mini, port, counts) == Given::Chosen;
    let time_wait = matches!(state, TcpState::TimeWait);
    if !holds && !time_wait {
        return;
    }
    let Some(way) = sock.way(family) else {
        return;
    };
    let reusable = time_wait && mini.is_some_and(TimewaitSock::has_timestamps);
    if let Some(entry) = find(&way, counts) {
        // SAFETY: the map gave a valid element; only one pass runs at a time.
        let entry = unsafe { &mut *entry };
        entry.held += u32::from(holds);
        entry.time_wait += u32::from(time_wait);
        entry.reusable += u32::from(holds & reusable);
    } else {
        counts.unplaced_held += u64::from(holds);
        counts.unplaced_time_wait += u64::from(time_wait);
    }
}

/// Takes note that something listens on a port.
#[inline(always)]
pub(crate) fn note_listener(port: &mut Port, counts: &mut SocketCounts) {
    if port.given().is_none() && port.can_be_chosen() {
        port.give(Given::Bound);
        counts.bound_ports += 1;
    }
}

/// How the port was given away. It is the same for all that have it, so that one is asked.
#[inline(always)]
fn given(
    sock: Sock,
    mini: Option<TimewaitSock>,
    port: &mut Port,
    counts: &mut SocketCounts,
) -> Given {
    if let Some(given) = port.given() {
        return given;
    }
    let bucket = match mini {
        Some(mini) => mini.bind_bucket(),
        None => sock.bind_bucket(),
    };
    if bucket.is_some_and(BindBucket::is_bound) {
        counts.bound_ports += 1;
        port.give(Given::Bound);
        Given::Bound
    } else {
        port.give(Given::Chosen);
        Given::Chosen
    }
}

#[inline(always)]
fn find(way: &Way, counts: &mut SocketCounts) -> Option<*mut Destination> {
    let pass = counts.pass;
    let place = way.place();
    let line = DEST_INDEX.get_ptr_mut(place.line)?;
    // SAFETY: the map gave a valid element; only one pass runs at a time.
    let line = unsafe { &mut *line };
    let mut free = INDEX_WORDS;
    for (index, word) in line.iter().enumerate() {
        if Place::is_free(*word, pass) {
            free = index;
            break;
        }
        let Some(number) = place.entry(*word, pass) else {
            continue;
        };
        let entry = entry(number)?;
        // SAFETY: as above.
        if unsafe { (*entry).goes(way) } {
            return Some(entry);
        }
    }
    let number = if free < INDEX_WORDS {
        next(counts)?
    } else {
        free = counts.destinations as usize;
        let number = Place::number(line[free % INDEX_WORDS]);
        give_up(number, counts)?;
        number
    };
    line[free % INDEX_WORDS] = place.word(pass, number);
    let entry = entry(number)?;
    // SAFETY: as above.
    unsafe { *entry = Destination::new(*way) };
    Some(entry)
}

/// The number of the entry for one more destination. They are handed out in a row, and then again
/// from the beginning.
#[inline(always)]
fn next(counts: &mut SocketCounts) -> Option<u32> {
    let number = counts.destinations;
    counts.destinations = number + 1;
    if number >= MAX_DESTINATIONS {
        give_up(number % MAX_DESTINATIONS, counts)?;
    }
    Some(number % MAX_DESTINATIONS)
}

/// Gives up what an entry is about, unless that is too much to be forgotten.
#[inline(always)]
fn give_up(number: u32, counts: &mut SocketCounts) -> Option<()> {
    // SAFETY: the map gave a valid element; only one pass runs at a time.
    let entry = unsafe { &*entry(number)? };
    if entry.held.max(entry.time_wait) >= KEPT_DESTINATION {
        return None;
    }
    counts.unplaced_held += u64::from(entry.held);
    counts.unplaced_time_wait += u64::from(entry.time_wait);
    Some(())
}

/// The entry with this number, if there is room for so many.
#[inline(always)]
fn entry(number: u32) -> Option<*mut Destination> {
    let together = DESTINATIONS.get_ptr_mut(number / TOGETHER)?;
    let place = number as usize % DESTINATIONS_TOGETHER;
    // SAFETY: the map gave a valid element; the place is within it.
    Some(unsafe { &raw mut (*together).entries[place] })
}
