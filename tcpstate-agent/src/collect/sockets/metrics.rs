//! Metrics of sockets and their transitions.

use prometheus::proto::MetricFamily;
use tcpstate_common::{Family, TcpState, TransitionMatrix};

use super::{Census, LEGAL_TRANSITIONS, catalogue};
use crate::exposition::family::{family, series};

pub(crate) fn by_state(census: &Census) -> MetricFamily {
    let all = Family::ALL.into_iter().flat_map(|family| {
        TcpState::FOUND.into_iter().map(move |state| {
            series(
                [family_name(family), state.name()],
                census.get(family, state),
            )
        })
    });
    family(&catalogue::SOCKETS, all)
}

/// As the label `family` has it.
const fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

pub(crate) fn transitions(matrix: &TransitionMatrix) -> MetricFamily {
    let pairs = TcpState::ALL.into_iter().flat_map(|from| {
        TcpState::ALL.into_iter().filter_map(move |to| {
            let count = matrix.of(from, to);
            let is_shown = count > 0 || LEGAL_TRANSITIONS.contains(&(from, to));
            is_shown.then(|| series([from.name(), to.name()], count))
        })
    });
    family(&catalogue::TRANSITIONS, pairs)
}
