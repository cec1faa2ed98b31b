//! Charging CPU time to a budget.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::model::budget::Budget;

/// Does `work` and charges the CPU time that it took.
pub(super) fn charge(budget: &mut Budget, work: impl FnOnce()) -> Duration {
    let started = thread_cpu_time();
    work();
    let cost = thread_cpu_time().saturating_sub(started);
    budget.spend(cost, Instant::now());
    cost
}

fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
