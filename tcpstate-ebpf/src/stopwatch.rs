//! How long sockets stay in a state, and since when those are in CLOSE_WAIT that still are.

use aya_ebpf::{macros::map, maps::Array};
use tcpstate_common::{
    TimedState, UNKNOWN,
    stopwatch::{self, BriefRow, ROWS, Row, StopwatchKey},
};

use crate::kernel;

/// `BPF_F_MMAPABLE`: the agent looks sockets up in its own memory.
const MMAPABLE: u32 = 1 << 10;

/// For CLOSE_WAIT.
#[map]
static STOPWATCH: Array<Row> = Array::with_max_entries(ROWS, MMAPABLE);

/// For the other states.
#[map]
static BRIEF: Array<BriefRow> = Array::with_max_entries(ROWS, 0);

/// What [`Sock::key`](crate::kernel::Sock::key) measures from, for the agent, which has addresses.
#[map]
static ORIGIN: Array<u64> = Array::with_max_entries(1, 0);

/// Tells it. The agent runs it once.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn tcp_origin(_ctx: *const u64) -> u64 {
    if let Some(at) = ORIGIN.get_ptr_mut(0) {
        // SAFETY: the map gave a valid element; it runs once.
        unsafe { *at = kernel::origin() };
    }
    0
}

const CLOSE_WAIT: u64 = TimedState::CloseWait as u64;

/// The state with this number ends. How long it lasted, or `UNKNOWN`.
#[inline(always)]
pub(crate) fn end(socket: u64, number: u64, now_ns: u64) -> u64 {
    let key = StopwatchKey::of(socket);
    let lasted = if number == CLOSE_WAIT {
        stop(home(&STOPWATCH, key), key, now_ns)
    } else {
        stop(home(&BRIEF, key), key, now_ns)
    };
    lasted.unwrap_or_else(|| end_elsewhere(socket, number, now_ns))
}

/// The state with this number begins. Whether another socket's beginning had to make room.
#[inline(always)]
pub(crate) fn begin(socket: u64, number: u64, now_ns: u64) -> bool {
    let key = StopwatchKey::of(socket);
    let is_begun = if number == CLOSE_WAIT {
        start(home(&STOPWATCH, key), key, now_ns)
    } else {
        start(home(&BRIEF, key), key, now_ns)
    };
    !is_begun && begin_elsewhere(socket, number, now_ns) != 0
}

/// `old` ends and `new` begins, neither of them CLOSE_WAIT. How long the first lasted, or
/// `UNKNOWN`, and whether another socket's beginning had to make room.
#[inline(always)]
pub(crate) fn lap(socket: u64, old: u64, new: u64, now_ns: u64) -> (u64, bool) {
    let key = StopwatchKey::of(socket);
    if let Some(home) = home(&BRIEF, key) {
        // SAFETY: `home()` gives a word of the map.
        let word = unsafe { home.read_volatile() };
        if key.is_of(word) {
            // SAFETY: as above.
            unsafe { home.write_volatile(key.word(now_ns)) };
            return (stopwatch::elapsed(word, now_ns), false);
        }
    }
    let lasted = end_elsewhere(socket, old, now_ns);
    (lasted, begin_elsewhere(socket, new, now_ns) != 0)
}

/// The word of its row that a socket has, where no other has it. Another CPU may be writing it; it
/// is loaded and stored as a whole. Where two write the same free word, the later one stays, and the
/// other socket's duration counts as unknown.
#[inline(always)]
fn home<const WORDS: usize>(table: &Array<[u64; WORDS]>, key: StopwatchKey) -> Option<*mut u64> {
    let row = table.get_ptr_mut(key.row)?;
    Some(row.cast::<u64>().wrapping_add(key.home::<WORDS>()))
}

/// How long it was, if this is the socket's word.
#[inline(always)]
fn stop(home: Option<*mut u64>, key: StopwatchKey, now: u64) -> Option<u64> {
    let home = home?;
    // SAFETY: `home()` gives a word of the map.
    let word = unsafe { home.read_volatile() };
    if !key.is_of(word) {
        return None;
    }
    // SAFETY: as above.
    unsafe { home.write_volatile(0) };
    Some(stopwatch::elapsed(word, now))
}

/// Whether it could be written down there.
#[inline(always)]
fn start(home: Option<*mut u64>, key: StopwatchKey, now: u64) -> bool {
    let Some(home) = home else {
        return false;
    };
    // SAFETY: `home()` gives a word of the map.
    let word = unsafe { home.read_volatile() };
    let is_ours = word == 0 || key.is_of(word);
    if is_ours {
        // SAFETY: as above.
        unsafe { home.write_volatile(key.word(now)) };
    }
    is_ours
}

/// As [`end`], of a socket that another was quicker than.
#[inline(never)]
fn end_elsewhere(socket: u64, number: u64, now: u64) -> u64 {
    let key = StopwatchKey::of(socket);
    if number == CLOSE_WAIT {
        find(STOPWATCH.get_ptr_mut(key.row), key, now)
    } else {
        find(BRIEF.get_ptr_mut(key.row), key, now)
    }
}

/// As [`begin`], of a socket whose word another has; 1 where one had to make room.
#[inline(never)]
fn begin_elsewhere(socket: u64, number: u64, now: u64) -> u64 {
    let key = StopwatchKey::of(socket);
    let displaced = if number == CLOSE_WAIT {
        find_room(STOPWATCH.get_ptr_mut(key.row), key, now)
    } else {
        find_room(BRIEF.get_ptr_mut(key.row), key, now)
    };
    displaced.into()
}

#[inline(always)]
fn find<const WORDS: usize>(row: Option<*mut [u64; WORDS]>, key: StopwatchKey, now: u64) -> u64 {
    let Some(row) = row else {
        return UNKNOWN;
    };
    let words = words(row);
    let Some(index) = key.find(&words) else {
        return UNKNOWN;
    };
    store(row, index, 0);
    stopwatch::elapsed(at(&words, index), now)
}

/// Whether another socket's beginning had to make room.
#[inline(always)]
fn find_room<const WORDS: usize>(
    row: Option<*mut [u64; WORDS]>,
    key: StopwatchKey,
    now: u64,
) -> bool {
    let Some(row) = row else {
        return false;
    };
    let started = key.start(&words(row), now);
    store(row, started.index, started.word);
    started.displaced
}

/// The row as it is at this moment.
#[inline(always)]
fn words<const WORDS: usize>(row: *const [u64; WORDS]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (index, word) in words.iter_mut().enumerate() {
        let place = row.cast::<u64>().wrapping_add(index);
        // SAFETY: the map gave a valid row, and `index` is below the number of its words.
        *word = unsafe { place.read_volatile() };
    }
    words
}

/// A word of a row; the mask is for the verifier.
#[inline(always)]
fn at<const WORDS: usize>(words: &[u64; WORDS], index: usize) -> u64 {
    words[index & (WORDS - 1)]
}

#[inline(always)]
fn store<const WORDS: usize>(row: *mut [u64; WORDS], index: usize, word: u64) {
    let place = row.cast::<u64>().wrapping_add(index & (WORDS - 1));
    // SAFETY: the map gave a valid row, and the mask keeps the place within it.
    unsafe { place.write_volatile(word) };
}
