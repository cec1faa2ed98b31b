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
    if number == CLOSE_WAIT {
        stop(STOPWATCH.get_ptr_mut(key.row), key, now_ns)
    } else {
        stop(BRIEF.get_ptr_mut(key.row), key, now_ns)
    }
}

/// The state with this number begins. Whether another socket's beginning had to make room.
#[inline(always)]
pub(crate) fn begin(socket: u64, number: u64, now_ns: u64) -> bool {
    let key = StopwatchKey::of(socket);
    if number == CLOSE_WAIT {
        start(STOPWATCH.get_ptr_mut(key.row), key, now_ns)
    } else {
        start(BRIEF.get_ptr_mut(key.row), key, now_ns)
    }
}

/// One state ends and another begins, neither of them CLOSE_WAIT. How long the first lasted, or
/// `UNKNOWN`, and whether another socket's beginning had to make room.
#[inline(always)]
pub(crate) fn lap(socket: u64, now_ns: u64) -> (u64, bool) {
    let key = StopwatchKey::of(socket);
    let Some(row) = BRIEF.get_ptr_mut(key.row) else {
        return (UNKNOWN, false);
    };
    let words = words(row);
    // It takes the socket's own word where there is one.
    let lasted = key.find(&words).map_or(UNKNOWN, |index| {
        stopwatch::elapsed(at(&words, index), now_ns)
    });
    let started = key.start(&words, now_ns);
    store(row, started.index, started.word);
    (lasted, started.displaced)
}

/// Whether another socket's beginning had to make room.
#[inline(always)]
fn start<const WORDS: usize>(row: Option<*mut [u64; WORDS]>, key: StopwatchKey, now: u64) -> bool {
    let Some(row) = row else {
        return false;
    };
    let started = key.start(&words(row), now);
    store(row, started.index, started.word);
    started.displaced
}

/// How long it was, where that is known.
#[inline(always)]
fn stop<const WORDS: usize>(row: Option<*mut [u64; WORDS]>, key: StopwatchKey, now: u64) -> u64 {
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

/// The row as it is at this moment. Another CPU may be writing one of its words; each is loaded
/// and stored as a whole. Where two write the same free word, the later one stays, and the other
/// socket's duration counts as unknown.
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
