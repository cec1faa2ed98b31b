//! Since when a socket is in its state: a set-associative table of bounded size.
//!
//! A hash map costs some 460 ns for an insert and a delete, and storage that hangs on the socket
//! takes 305 bytes of kernel memory each. Here a socket's address names a row of eight words, one
//! cache line, and each word holds the rest of the address and a time. Where a row is full, the
//! socket that has been there longest makes room: a leak that fills the table hides nothing that
//! comes after it.
//!
//! There are two of them: sockets stay in CLOSE_WAIT for as long as a process leaves them there,
//! and have a table of their own; what they fill hides nothing of the states that are left within
//! a round trip, nor the other way round.
//!
//! Pure: the eBPF programs load and store the words, what they mean is decided here.

use crate::verifier::masked;

/// Words of a row: 64 bytes, a cache line.
pub const ROW_WORDS: usize = 8;
/// Rows of the table, a power of two. With [`ROW_WORDS`] words each it takes 4 MiB, and holds
/// 180,000 sockets with one in a thousand displaced.
pub const ROWS: u32 = 1 << ROW_BITS;

/// Words of a row of the table for states that pass quickly. With as many rows it takes 1 MiB, and
/// has room for 131,072 sockets. Two words are looked at sooner than eight, and of the few sockets
/// that are in such a state at a time hardly any three share a row.
pub const BRIEF_WORDS: usize = 2;

const ROW_BITS: u32 = 16;
const TAG_BITS: u32 = 18;
const KEY_BITS: u32 = ROW_BITS + TAG_BITS;
const KEY_MASK: u64 = (1 << KEY_BITS) - 1;
const TIME_BITS: u32 = 64 - TAG_BITS;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// Sockets are aligned to cache lines (`SLAB_HWCACHE_ALIGN`), so these bits of their addresses
/// say nothing.
const ALIGNMENT_BITS: u32 = 6;
/// A tick of the table is 256 ns; 46 bits of them take 208 days to come round.
const TICK_BITS: u32 = 8;
/// How far ahead of now a moment can lie: 13 days.
const AHEAD: u64 = 1 << (TIME_BITS - 4);
/// The longest time that is told: 195 days.
const LONGEST: u64 = TIME_MASK - AHEAD;
/// Any odd number is a bijection; this one, 2^34 divided by the golden ratio, spreads neighbours.
const SPREAD: u64 = 0x2_78DD_E6E5;

/// A row as it was loaded. A word is 0 where it is free.
pub type Row = [u64; ROW_WORDS];
/// A row of the table for states that pass quickly.
pub type BriefRow = [u64; BRIEF_WORDS];

/// Where a socket's time is: the row, and what tells it from the others in the row.
///
/// Two sockets have the same key only if their addresses are a multiple of 1 TiB apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopwatchKey {
    /// Number of the row.
    pub row: u32,
    tag: u64,
}

/// Where to write down the beginning of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Which word of the row.
    pub index: usize,
    /// What to store there.
    pub word: u64,
    /// Another socket had to make room; its beginning is forgotten.
    pub displaced: bool,
}

impl StopwatchKey {
    /// The key of the socket at `address`, or at that distance from whatever all are measured from.
    #[inline(always)]
    #[must_use]
    pub const fn of(address: u64) -> Self {
        // Each of the three steps is a bijection. One alone leaves sockets that lie at even
        // distances, as in a slab, in few rows.
        let spread = (address >> ALIGNMENT_BITS).wrapping_mul(SPREAD) & KEY_MASK;
        let spread = spread ^ (spread >> (KEY_BITS / 2));
        let spread = spread.wrapping_mul(SPREAD) & KEY_MASK;
        Self {
            row: (spread >> TAG_BITS) as u32,
            tag: spread << TIME_BITS,
        }
    }

    /// Whether `word` is this socket's.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, word: u64) -> bool {
        (word ^ self.tag) <= TIME_MASK && word != 0
    }

    /// The word of a row that is looked at first, and nearly always the only one.
    #[inline(always)]
    #[must_use]
    pub fn home<const WORDS: usize>(self) -> usize {
        masked::<WORDS>(self.tag >> TIME_BITS)
    }

    /// What to store as the socket's word when its state begins at `now_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, now_ns: u64) -> u64 {
        self.tag | ticks(now_ns)
    }

    /// Which word of `row` is this socket's, if one is. An older one of its own, whose end was not
    /// seen, may lie behind the first.
    #[inline(always)]
    #[must_use]
    pub fn find<const WORDS: usize>(self, row: &[u64; WORDS]) -> Option<usize> {
        let home = self.home::<WORDS>();
        if self.is_of(row[home]) {
            return Some(home);
        }
        let mut index = 0;
        while index < WORDS {
            if self.is_of(row[index]) {
                return Some(index);
            }
            index += 1;
        }
        None
    }

    /// Where to write down that this socket's state begins at `now_ns`.
    #[inline(always)]
    #[must_use]
    pub fn start<const WORDS: usize>(self, row: &[u64; WORDS], now_ns: u64) -> Started {
        let home = self.home::<WORDS>();
        if row[home] == 0 || self.is_of(row[home]) {
            return Started {
                index: home,
                word: self.word(now_ns),
                displaced: false,
            };
        }
        let now = ticks(now_ns);
        let mut index = 0;
        let mut best = 0;
        // How good a word is to take: this socket's own above a free one above the oldest.
        let mut best_rank = 0;
        while index < WORDS {
            let word = row[index];
            let rank = if self.is_of(word) {
                u64::MAX
            } else if word == 0 {
                u64::MAX - 1
            } else {
                passed(word, now)
            };
            if rank > best_rank {
                best = index;
                best_rank = rank;
            }
            index += 1;
        }
        Started {
            index: best,
            word: self.tag | now,
            displaced: best_rank <= TIME_MASK,
        }
    }
}

/// The moment that `word` holds, in nanoseconds of the clock that says `now_ns`; up to 255 ns
/// early. Never after `now_ns`.
#[inline(always)]
#[must_use]
pub const fn since(word: u64, now_ns: u64) -> u64 {
    let now = now_ns >> TICK_BITS;
    now.saturating_sub(passed(word, now)) << TICK_BITS
}

/// How long it is from the moment that `word` holds to `now_ns`, in nanoseconds; up to 255 ns too
/// long. Less than nothing is nothing.
#[inline(always)]
#[must_use]
pub const fn elapsed(word: u64, now_ns: u64) -> u64 {
    let ticks = passed(word, now_ns >> TICK_BITS);
    (ticks << TICK_BITS) | (now_ns & ((1 << TICK_BITS) - 1))
}

/// Ticks from that in `word` to `now`. Two CPUs, or a segment's date and the clock, need not agree
/// on what came first, and the difference of the two comes round: so a moment that lies ahead by
/// less than [`AHEAD`] is taken for now, and not for one of 200 days ago.
#[inline(always)]
const fn passed(word: u64, now: u64) -> u64 {
    let ticks = now.wrapping_sub(word) & TIME_MASK;
    if ticks > LONGEST { 0 } else { ticks }
}

/// Never 0, so that no word in use is.
#[inline(always)]
const fn ticks(now_ns: u64) -> u64 {
    let ticks = (now_ns >> TICK_BITS) & TIME_MASK;
    if ticks == 0 { 1 } else { ticks }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{collections::HashMap, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    /// The table as the programs use it.
    struct Table(Vec<Row>);

    impl Table {
        fn new() -> Self {
            Self(vec![[0; ROW_WORDS]; ROWS as usize])
        }

        fn start(&mut self, address: u64, now: u64) -> bool {
            let key = StopwatchKey::of(address);
            let row = &mut self.0[key.row as usize];
            let started = key.start(row, now);
            row[started.index] = started.word;
            started.displaced
        }

        fn since(&self, address: u64, now: u64) -> Option<u64> {
            let key = StopwatchKey::of(address);
            let row = &self.0[key.row as usize];
            key.find(row).map(|index| since(row[index], now))
        }

        fn stop(&mut self, address: u64, now: u64) -> Option<u64> {
            let key = StopwatchKey::of(address);
            let row = &mut self.0[key.row as usize];
            let index = key.find(row)?;
            let elapsed = elapsed(row[index], now);
            row[index] = 0;
            Some(elapsed)
        }
    }

    /// Addresses as a slab cache gives them out: objects of 2,432 bytes in pages anywhere.
    fn address(number: u64) -> u64 {
        let page = number / 13;
        0xffff_8880_0000_0000 + (page * 7919 % 500_000) * 32_768 + (number % 13) * 2_432
    }

    #[test]
    fn what_is_started_is_found_and_stopped_once() {
        let mut table = Table::new();
        assert!(!table.start(address(1), 5 * MS));
        assert_eq!(table.since(address(2), 6 * MS), None);
        let elapsed = table.stop(address(1), 9 * MS).unwrap();
        assert!((4 * MS..4 * MS + 256).contains(&elapsed), "{elapsed}");
        assert_eq!(table.stop(address(1), 9 * MS), None);
    }

    #[test]
    fn starting_again_replaces_the_beginning() {
        let mut table = Table::new();
        table.start(address(1), MS);
        assert!(!table.start(address(1), 10 * MS));
        assert!(table.since(address(1), 11 * MS).unwrap() > 9 * MS);
        table.stop(address(1), 11 * MS);
        assert_eq!(table.since(address(1), 11 * MS), None);
    }

    #[test]
    fn no_two_sockets_of_a_machine_have_one_key() {
        let mut seen = HashMap::new();
        for number in 0..1_000_000 {
            let key = StopwatchKey::of(address(number));
            if let Some(other) = seen.insert((key.row, key.tag), address(number)) {
                assert_eq!(other, address(number));
            }
        }
    }

    #[test]
    fn with_100_000_leaked_those_that_come_after_are_all_timed() {
        let mut table = Table::new();
        let mut displaced = 0;
        for number in 0..100_000 {
            displaced += u32::from(table.start(address(number), number * 1_000));
        }
        assert!(displaced < 100, "{displaced} of 100,000 displaced");
        let now = 1_000 * MS;
        for number in 100_000..110_000 {
            table.start(address(number), now);
        }
        for number in 100_000..110_000 {
            assert!(table.stop(address(number), now + 1_000 * MS).is_some());
        }
    }

    #[test]
    fn of_180_000_nearly_all_keep_their_beginning() {
        let mut table = Table::new();
        let displaced: u32 = (0..180_000)
            .map(|number| u32::from(table.start(address(number), number * 1_000)))
            .sum();
        assert!(displaced < 1_000, "{displaced} of 180,000 displaced");
    }

    #[test]
    fn in_the_brief_table_ten_thousand_at_once_are_all_timed_but_for_a_few() {
        let mut table = vec![[0; BRIEF_WORDS]; ROWS as usize];
        let mut displaced = 0;
        for number in 0..10_000 {
            let key = StopwatchKey::of(address(number));
            let row = &mut table[key.row as usize];
            let started = key.start(row, number * 1_000);
            row[started.index] = started.word;
            displaced += u32::from(started.displaced);
        }
        assert!(displaced < 100, "{displaced} of 10,000 displaced");
    }

    #[test]
    fn measured_from_anywhere_sockets_are_told_apart() {
        let origin = 0xffff_c900_0012_3458_u64;
        let mut seen = HashMap::new();
        for number in 0..1_000_000 {
            let key = StopwatchKey::of(address(number).wrapping_sub(origin));
            if let Some(other) = seen.insert((key.row, key.tag), address(number)) {
                assert_eq!(other, address(number));
            }
        }
    }

    #[test]
    fn a_full_row_gives_up_the_oldest() {
        let own = StopwatchKey::of(address(1));
        let other = |index: u64| StopwatchKey {
            tag: (own.tag ^ (1 << 63)).wrapping_add(index << TIME_BITS),
            ..own
        };
        let mut row = [0; ROW_WORDS];
        let mut oldest = 0;
        for index in 0..ROW_WORDS {
            let started = other(index as u64).start(&row, (20 - index as u64) * MS);
            assert!(!started.displaced);
            row[started.index] = started.word;
            oldest = started.index;
        }
        let started = own.start(&row, 30 * MS);
        assert_eq!((started.index, started.displaced), (oldest, true));
    }

    #[test]
    fn a_socket_dated_ahead_of_now_is_not_taken_for_the_oldest() {
        let own = StopwatchKey::of(address(1));
        let other = |index: u64| StopwatchKey {
            tag: (own.tag ^ (1 << 63)).wrapping_add(index << TIME_BITS),
            ..own
        };
        let mut row = [0; BRIEF_WORDS];
        let mut last = 0;
        // The first began by the clock, after the segment came that the third is dated by.
        for (index, began) in [(0, 30 * MS + 50_000), (1, 29 * MS)] {
            let started = other(index).start(&row, began);
            row[started.index] = started.word;
            last = started.index;
        }
        let started = own.start(&row, 30 * MS);
        assert_eq!((started.index, started.displaced), (last, true));
    }

    proptest! {
        #[test]
        fn no_difference_of_two_moments_comes_round(
            now in 0..u64::MAX / 2,
            // Thirteen days before it began, to 190 days after.
            difference in -1_123_000_000_000_000_i64..16_416_000_000_000_000,
            address: u64,
        ) {
            let Some(now) = now.checked_add_signed(difference.min(0)) else { return Ok(()) };
            let Some(began) = now.checked_sub_signed(difference) else { return Ok(()) };
            let started = StopwatchKey::of(address).start(&[0; ROW_WORDS], began);
            let expected = now.saturating_sub(began);
            let found = elapsed(started.word, now);
            prop_assert!(found.abs_diff(expected) <= 512, "{found}, not {expected}");
            let since = since(started.word, now);
            prop_assert!((now - since).abs_diff(expected) <= 512, "{since} at {now}");
        }

        #[test]
        fn whatever_the_dates_no_time_is_longer_than_can_be_told(word: u64, now: u64) {
            let longest = (LONGEST + 1) << TICK_BITS;
            prop_assert!(elapsed(word, now) < longest);
            prop_assert!(since(word, now) <= now);
        }

        #[test]
        fn moments_one_after_the_other_add_up(
            start in 0..u64::MAX / 2,
            steps in prop::collection::vec(-1_000_000_i64..1_000_000_000, 1..20),
        ) {
            // A socket that goes from state to state, dated now by a segment, now by the clock.
            let key = StopwatchKey::of(start);
            let (mut now, mut sum) = (start, 0_u64);
            let mut word = key.start(&[0; BRIEF_WORDS], now).word;
            let mut forward = 0;
            for step in &steps {
                now = now.saturating_add_signed(*step);
                sum += elapsed(word, now);
                forward += u64::try_from(*step).unwrap_or(0);
                word = key.start(&[word, 0], now).word;
            }
            prop_assert!(sum <= forward + 512 * steps.len() as u64, "{sum} of {forward}");
        }
    }

    #[test]
    fn a_beginning_survives_the_wrap_of_the_clock() {
        let key = StopwatchKey::of(address(3));
        let wrap = 1 << (TIME_BITS + TICK_BITS);
        let started = key.start(&[0; ROW_WORDS], wrap - MS);
        let now = wrap + MS;
        let elapsed = now - since(started.word, now);
        assert!((2 * MS..2 * MS + 512).contains(&elapsed), "{elapsed}");
    }

    #[test]
    fn time_zero_is_no_free_word() {
        let key = StopwatchKey { row: 0, tag: 0 };
        let started = key.start(&[0; ROW_WORDS], 0);
        let mut row = [0; ROW_WORDS];
        row[started.index] = started.word;
        assert_eq!(key.find(&row), Some(started.index));
    }

    #[test]
    fn an_older_word_of_the_same_socket_is_not_taken_for_the_last() {
        let key = StopwatchKey::of(address(4));
        let mut row = [0; ROW_WORDS];
        let home = key.home::<ROW_WORDS>();
        // Another socket had the first word, so it went elsewhere; its end was not seen.
        row[home] = 1;
        let started = key.start(&row, MS);
        assert_ne!(started.index, home);
        row[started.index] = started.word;
        row[home] = 0;
        let started = key.start(&row, 5 * MS);
        row[started.index] = started.word;
        let found = key.find(&row).unwrap();
        assert_eq!(elapsed(row[found], 6 * MS) / MS, 1);
    }
}
