//! How much to read at once: as much as takes some ten microseconds, by experience.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the sizes of the buffers are far below 32 bits"
)]

use std::time::Duration;

use tcpstate_common::pass::{MAX_GROUPS, MAX_LANES, NAMESPACES_A_RUN, ROOM_FOR_GROUP};

use super::tables::Contents;

/// What a run is to take. The kernel does not preempt it.
const AIM: Duration = Duration::from_micros(50);
/// How much more is asked for at most than the last time.
const GROWTH: f64 = 2.0;
/// Buckets that one run can read.
const MOST: u32 = MAX_GROUPS * MAX_LANES as u32;

/// The last namespace of a run is read once more in the next one, so one alone would lead nowhere.
const FEWEST_NAMESPACES: u32 = 2;

/// What is known of each table.
#[derive(Clone, Debug, Default)]
pub(super) struct Stride([OfTable; 3]);

/// What is known of the list of namespaces: each takes longer the more CPUs count in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListStride {
    namespaces: u32,
}

impl Default for ListStride {
    fn default() -> Self {
        Self {
            namespaces: FEWEST_NAMESPACES,
        }
    }
}

impl ListStride {
    /// How many namespaces to ask for.
    pub(super) const fn namespaces(self) -> u32 {
        self.namespaces
    }

    /// Takes note that so many took so long.
    pub(super) fn learn(&mut self, namespaces: u32, took: Duration) {
        self.namespaces = next(self.namespaces, namespaces, took)
            .clamp(FEWEST_NAMESPACES, NAMESPACES_A_RUN as u32);
    }
}

/// How many to ask for next, where so many were `asked` for and `read` of them took so long: from one
/// on it grows again.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "they are between none and some thousands"
)]
fn next(asked: u32, read: u32, took: Duration) -> u32 {
    let factor = AIM.as_secs_f64() / took.as_secs_f64().max(1e-7);
    let asked = f64::from(asked);
    // At the end of a table there is less to read than was asked for.
    let wanted = (f64::from(read) * factor).clamp(asked / GROWTH, asked * GROWTH);
    // A run that was held up once says nothing of the next.
    let smoothed = f64::midpoint(asked, wanted);
    // A whole one more is one more, or a single one would stay one.
    if wanted >= asked + 1.0 {
        smoothed.ceil() as u32
    } else {
        smoothed as u32
    }
}

#[derive(Clone, Copy, Debug)]
struct OfTable {
    buckets: u32,
    lanes: u32,
}

impl Default for OfTable {
    fn default() -> Self {
        Self {
            buckets: MAX_LANES as u32,
            lanes: MAX_LANES as u32 / 4,
        }
    }
}

impl Stride {
    /// How many buckets of a table to ask for.
    pub(super) const fn buckets(&self, of: Contents) -> u32 {
        self.0[of as usize].buckets
    }

    /// How many of them are to be read side by side: so many that their objects have room.
    pub(super) const fn lanes(&self, of: Contents) -> u32 {
        self.0[of as usize].lanes
    }

    /// Takes note that so many buckets, with so many objects in them, took so long.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "they are between one and some thousands"
    )]
    pub(super) fn learn(&mut self, of: Contents, buckets: u32, objects: usize, took: Duration) {
        let known = &mut self.0[of as usize];
        if buckets == 0 {
            // One group is too much.
            known.lanes = (known.lanes / 2).max(1);
            return;
        }
        known.buckets = next(known.buckets, buckets, took).clamp(1, MOST);
        let each = objects as f64 / f64::from(buckets);
        let lanes = f64::from(ROOM_FOR_GROUP) / (2.0 * each + 1.0);
        known.lanes = (lanes as u32).clamp(1, MAX_LANES as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_to_take_what_they_are_to_take_whatever_a_bucket_costs() {
        for nanoseconds in [6, 150, 1_000, 20_000] {
            let mut stride = Stride::default();
            for _ in 0..40 {
                let buckets = stride.buckets(Contents::Sockets);
                let took = Duration::from_nanos(nanoseconds * u64::from(buckets));
                stride.learn(Contents::Sockets, buckets, 0, took);
            }
            let buckets = stride.buckets(Contents::Sockets);
            let took = Duration::from_nanos(nanoseconds * u64::from(buckets));
            let is_right = (AIM * 8 / 10..AIM * 12 / 10).contains(&took);
            assert!(is_right || buckets == MOST, "{nanoseconds}: {took:?}");
            // What is known of one table says nothing of another.
            assert_eq!(stride.buckets(Contents::Ports), MAX_LANES as u32);
        }
    }

    #[test]
    fn runs_along_the_list_come_to_take_what_they_are_to_take_whatever_a_namespace_costs() {
        for nanoseconds in [300, 4_000, 12_000, 150_000] {
            let mut stride = ListStride::default();
            for _ in 0..40 {
                let namespaces = stride.namespaces();
                let took = Duration::from_nanos(nanoseconds * u64::from(namespaces));
                stride.learn(namespaces, took);
            }
            let took = Duration::from_nanos(nanoseconds * u64::from(stride.namespaces()));
            let is_right = (AIM * 7 / 10..AIM * 12 / 10).contains(&took);
            let is_bound = [FEWEST_NAMESPACES, NAMESPACES_A_RUN as u32];
            assert!(
                is_right || is_bound.contains(&stride.namespaces()),
                "{nanoseconds}: {took:?}"
            );
        }
    }

    #[test]
    fn from_one_bucket_on_runs_grow_again() {
        let mut stride = Stride::default();
        for _ in 0..100 {
            stride.learn(Contents::Sockets, 1, 1, AIM * 2);
        }
        assert_eq!(stride.buckets(Contents::Sockets), 1);
        for _ in 0..40 {
            let buckets = stride.buckets(Contents::Sockets);
            let took = Duration::from_nanos(150 * u64::from(buckets));
            stride.learn(Contents::Sockets, buckets, 0, took);
        }
        let took = Duration::from_nanos(150 * u64::from(stride.buckets(Contents::Sockets)));
        assert!((AIM * 8 / 10..AIM * 12 / 10).contains(&took), "{took:?}");
    }

    #[test]
    fn one_run_that_was_held_up_changes_little() {
        let mut stride = Stride::default();
        stride.0[0].buckets = 1_000;
        stride.learn(Contents::Sockets, 1_000, 0, Duration::from_millis(40));
        assert!(stride.buckets(Contents::Sockets) >= 700);
    }

    #[test]
    fn the_more_objects_in_a_bucket_the_fewer_are_read_side_by_side() {
        let mut stride = Stride::default();
        let mut lanes = |objects| {
            stride.learn(Contents::Sockets, 64, objects, AIM);
            stride.lanes(Contents::Sockets)
        };
        assert_eq!(lanes(0), 64);
        assert!(lanes(64 * 4) < 32);
        assert_eq!(lanes(64 * 1_000), 1);
    }

    #[test]
    fn where_nothing_could_be_begun_less_is_asked_for() {
        let mut stride = Stride::default();
        let before = stride.lanes(Contents::Sockets);
        stride.learn(Contents::Sockets, 0, 0, AIM);
        assert_eq!(stride.lanes(Contents::Sockets), before / 2);
    }
}
