//! The ends of connections that are closed in good order, of which the programs look nothing up.

use crate::{CloseReason, Ending, Stage};

/// The ends that nearly every connection has, one at each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderlyEnd {
    /// [`Stage::HandedOver`], without an error.
    HandedOver,
    /// [`Stage::ClosedFirst`].
    ClosedFirst,
    /// [`Stage::ClosedSecond`].
    ClosedSecond,
}

impl OrderlyEnd {
    /// The same as one among all. Of the others the error says nothing.
    #[inline(always)]
    #[must_use]
    pub const fn ending(self) -> Ending {
        Ending::without_error(match self {
            Self::HandedOver => Stage::HandedOver,
            Self::ClosedFirst => Stage::ClosedFirst,
            Self::ClosedSecond => Stage::ClosedSecond,
        })
    }

    /// [`Ending::reason`] of it.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> CloseReason {
        match self {
            Self::HandedOver | Self::ClosedFirst => CloseReason::LocalFin,
            Self::ClosedSecond => CloseReason::RemoteFin,
        }
    }

    /// [`Ending::is_handed_over`] of it.
    #[inline(always)]
    #[must_use]
    pub const fn is_handed_over(self) -> bool {
        matches!(self, Self::HandedOver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SentReset::{Answer, Unasked, Unwanted};

    #[test]
    fn the_ends_in_good_order_are_those_of_the_table_whatever_the_error() {
        use OrderlyEnd::{ClosedFirst, ClosedSecond, HandedOver};

        let any_error = 0..4096;
        for (end, stage, errors) in [
            (HandedOver, Stage::HandedOver, 0..1),
            (ClosedFirst, Stage::ClosedFirst, any_error.clone()),
            (ClosedSecond, Stage::ClosedSecond, any_error),
        ] {
            for ending in errors.map(|error| Ending::new(stage, error)) {
                assert_eq!(end.reason(), ending.reason());
                assert_eq!(end.is_handed_over(), ending.is_handed_over());
                for sent in [Answer, Unasked, Unwanted] {
                    assert_eq!(end.ending().corrected(sent), ending.corrected(sent));
                }
            }
        }
    }
}
