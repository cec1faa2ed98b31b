//! The events thread: empties the ring buffer and keeps the recent ends.

use tracing::warn;

use super::shared::{EVENT_INTERVAL, Shared, lock};
use crate::bpf::{EventRing, KernelLog};

pub(super) fn run(shared: &Shared, mut kernel_log: Option<KernelLog>) {
    let wake_up = shared.events.as_ref().and_then(|ring| {
        lock(ring)
            .wake_up()
            .inspect_err(|error| warn!(%error, "cannot be woken for events, looking by the clock"))
            .ok()
    });
    while !shared.is_stopped() {
        let waited = wake_up.as_ref().map(|wake_up| wake_up.wait(EVENT_INTERVAL));
        if !matches!(waited, Some(Ok(()))) {
            std::thread::sleep(EVENT_INTERVAL);
        }
        if let Some(ring) = &shared.events {
            drain(shared, &mut lock(ring));
        }
        if let Some(log) = &mut kernel_log {
            log.flush();
        }
    }
}

/// Takes the records that are in the ring.
pub(super) fn drain(shared: &Shared, ring: &mut EventRing) {
    let mut ends = Vec::new();
    if let Some(error) = ring.drain(|transition| ends.push(transition)) {
        warn!(%error, "a malformed record from the kernel side was dropped");
    }
    let mut recent = lock(&shared.recent_ends);
    for end in &ends {
        recent.add(end);
    }
}
