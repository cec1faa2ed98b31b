//! How many files a process has open, and how many it may.

/// The file descriptors of a process. A server without a free one accepts no connection, and
/// what it does not accept stays in the listen queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// How many are open.
    pub open: u64,
    /// How many may be open, `RLIMIT_NOFILE`, the soft one. None means no limit.
    pub limit: Option<u64>,
}

impl Descriptors {
    /// How many more may be open; `None` where there is no limit.
    #[must_use]
    pub const fn left(&self) -> Option<u64> {
        match self.limit {
            Some(limit) => Some(limit.saturating_sub(self.open)),
            None => None,
        }
    }
}
