//! What repeated measurements of one thing come to.

use serde::Serialize;

/// The middle of some measurements and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How many measurements there are.
    pub(crate) count: usize,
}

impl Spread {
    /// `None` where nothing was measured, or something that is no number.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = sorted(values)?;
        Some(Self {
            median: at(&values, 0.5),
            min: *values.first()?,
            max: *values.last()?,
            count: values.len(),
        })
    }

    /// Of one measurement.
    pub(crate) const fn single(value: f64) -> Self {
        Self {
            median: value,
            min: value,
            max: value,
            count: 1,
        }
    }

    /// How many times this is `other`, at least and at most.
    pub(crate) fn over(self, other: Self) -> Self {
        Self {
            median: self.median / other.median,
            min: self.min / other.max,
            max: self.max / other.min,
            count: self.count.min(other.count),
        }
    }
}

/// The value that a `part` of all values do not exceed.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> Option<f64> {
    sorted(values).map(|values| at(&values, part))
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Option<Vec<f64>> {
    let mut values: Vec<f64> = values.into_iter().collect();
    if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    values.sort_by(f64::total_cmp);
    Some(values)
}

/// Between two values, in proportion.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a list of measurements, and there are few of them"
)]
fn at(sorted: &[f64], part: f64) -> f64 {
    let place = part.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

/// A count, as a number to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of what a machine does in minutes are far below 2^53"
)]
pub(crate) const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_the_ends_are_the_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0, 10.0]);
        let expected = Spread {
            median: 2.5,
            min: 1.0,
            max: 10.0,
            count: 4,
        };
        assert_eq!(spread, Some(expected));
    }

    #[test]
    fn of_nothing_there_is_no_spread() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
        assert_eq!(quantile([], 0.5), None);
    }

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(values.clone(), 0.99), Some(99.0));
        assert_eq!(quantile(values, 0.0), Some(0.0));
        assert_eq!(quantile([1.0, 2.0], 0.25), Some(1.25));
    }

    #[test]
    fn a_ratio_is_at_its_least_where_the_least_meets_the_most() {
        let one = Spread::of([10.0, 20.0]).map(|spread| spread.over(Spread::single(2.0)));
        assert_eq!(one.map(|ratio| (ratio.min, ratio.max)), Some((5.0, 10.0)));
        let both = Spread {
            median: 2.0,
            min: 1.0,
            max: 4.0,
            count: 3,
        };
        let ratio = both.over(both);
        assert_eq!((ratio.median, ratio.min, ratio.max), (1.0, 0.25, 4.0));
    }
}
