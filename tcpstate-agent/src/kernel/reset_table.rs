//! Resets, as the tracepoints count them.

use std::collections::BTreeMap;

use aya::{
    maps::{MapData, MapError, PerCpuArray},
    programs::tp_btf::BtfTracePointLink,
};
use tcpstate_common::{RESET_REASONS, ResetCounters};

use super::{facts::UNKNOWN_RESET, flow::sum, plan::ProgramId, wire::Wire};

/// The counters of the attached programs. Dropping it detaches them.
pub struct ResetTable {
    counters: PerCpuArray<MapData, Wire<ResetCounters>>,
    reasons: Vec<String>,
    /// As it was shown last.
    received: u64,
    links: Vec<(ProgramId, BtfTracePointLink)>,
}

/// Resets since the programs were attached. `None` where the program does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resets {
    /// Sent by this host, by why.
    pub sent: Option<BTreeMap<String, u64>>,
    /// Received.
    pub received: Option<u64>,
}

impl ResetTable {
    pub(super) fn new(
        counters: PerCpuArray<MapData, Wire<ResetCounters>>,
        reasons: &[String],
        links: Vec<(ProgramId, BtfTracePointLink)>,
    ) -> Self {
        Self {
            counters,
            reasons: reasons.to_vec(),
            received: 0,
            links,
        }
    }

    /// All resets so far. Nothing in it goes back: one that is taken back between two readings
    /// makes up for the next.
    pub fn read(&mut self) -> Result<Resets, MapError> {
        let zeros = ResetCounters::default();
        let counters = sum(&self.counters, 0, zeros, ResetCounters::add)?;
        // Below 0 where the program that takes back began before the one that counts.
        let received = u64::try_from(counters.received.cast_signed()).unwrap_or(0);
        self.received = self.received.max(received);
        let runs = |wanted| self.links.iter().any(|(program, _)| *program == wanted);
        Ok(Resets {
            sent: runs(ProgramId::ResetSent).then(|| by_reason(&counters.sent, &self.reasons)),
            received: runs(ProgramId::ResetReceived).then_some(self.received),
        })
    }
}

/// Every reason that the kernel has a name for, and what it has none for together.
fn by_reason(counts: &[u64; RESET_REASONS], names: &[String]) -> BTreeMap<String, u64> {
    let unknown = UNKNOWN_RESET.to_owned();
    let mut by_reason = BTreeMap::from([(unknown.clone(), 0)]);
    for name in names {
        by_reason.insert(name.clone(), 0);
    }
    for (number, count) in counts.iter().enumerate() {
        // The last place is also that of all beyond.
        let name = names.get(number).filter(|_| number < RESET_REASONS - 1);
        *by_reason
            .entry(name.unwrap_or(&unknown).clone())
            .or_insert(0) += count;
    }
    by_reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_no_name_for_is_unknown() {
        let mut counts = [0; RESET_REASONS];
        (counts[0], counts[1], counts[2], counts[63]) = (1, 2, 4, 8);
        let names = ["unknown", "no_socket"].map(str::to_owned);
        let found = by_reason(&counts, &names);
        assert_eq!(found["unknown"], 13);
        assert_eq!(found["no_socket"], 2);
        assert_eq!(by_reason(&counts, &[]), [("unknown".to_owned(), 15)].into());
    }

    #[test]
    fn a_reason_that_never_occurred_is_zero_and_not_absent() {
        let names = ["unknown", "no_socket"].map(str::to_owned);
        assert_eq!(by_reason(&[0; RESET_REASONS], &names).len(), 2);
    }
}
