//! How long sockets stay in a state, and since when those are in it that still are.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use tcpstate_common::{
    CLOSE_WAIT_BOUNDS_NS, Durations,
    stopwatch::{self, ROW_WORDS, ROWS, Row, StopwatchKey},
};

#[map]
static STOPWATCH: Array<Row> = Array::with_max_entries(ROWS, 0);

#[map]
static DURATIONS: PerCpuArray<Durations> = PerCpuArray::with_max_entries(1, 0);

/// Takes note that the state of `socket` begins now.
#[inline(always)]
pub(crate) fn start(socket: u64, now_ns: u64) {
    let key = StopwatchKey::of(socket);
    let Some(row) = STOPWATCH.get_ptr_mut(key.row) else {
        return;
    };
    let started = key.start(&words(row), now_ns);
    store(row, started.index, started.word);
    if started.displaced {
        update(|durations| durations.displaced += 1);
    }
}

/// Counts how long the state of `socket` has lasted, which ends now.
#[inline(always)]
pub(crate) fn stop(socket: u64, now_ns: u64) {
    let key = StopwatchKey::of(socket);
    let Some(row) = STOPWATCH.get_ptr_mut(key.row) else {
        return;
    };
    let words = words(row);
    let Some(index) = key.find(&words) else {
        update(|durations| durations.unknown += 1);
        return;
    };
    let since = stopwatch::since(words[index & (ROW_WORDS - 1)], now_ns);
    store(row, index, 0);
    update(|durations| durations.observe(now_ns - since, &CLOSE_WAIT_BOUNDS_NS));
}

/// Since when `socket` is in its state; 0 where that is not known.
#[inline(always)]
pub(crate) fn since(socket: u64, now_ns: u64) -> u64 {
    let key = StopwatchKey::of(socket);
    let Some(row) = STOPWATCH.get_ptr_mut(key.row) else {
        return 0;
    };
    let words = words(row);
    key.find(&words).map_or(0, |index| {
        stopwatch::since(words[index & (ROW_WORDS - 1)], now_ns)
    })
}

/// The row as it is at this moment. Another CPU may be writing one of its words; each is loaded
/// and stored as a whole. Where two write the same free word, the later one stays, and the other
/// socket's duration counts as unknown.
#[inline(always)]
fn words(row: *const Row) -> Row {
    let mut words = [0; ROW_WORDS];
    for (index, word) in words.iter_mut().enumerate() {
        let place = row.cast::<u64>().wrapping_add(index);
        // SAFETY: the map gave a valid row, and `index` is below the number of its words.
        *word = unsafe { place.read_volatile() };
    }
    words
}

#[inline(always)]
fn store(row: *mut Row, index: usize, word: u64) {
    let place = row.cast::<u64>().wrapping_add(index & (ROW_WORDS - 1));
    // SAFETY: the map gave a valid row, and the mask keeps the place within it.
    unsafe { place.write_volatile(word) };
}

#[inline(always)]
fn update(change: impl FnOnce(&mut Durations)) {
    if let Some(durations) = DURATIONS.get_ptr_mut(0) {
        // SAFETY: the map gave this CPU's element, which no other CPU writes.
        change(unsafe { &mut *durations });
    }
}
