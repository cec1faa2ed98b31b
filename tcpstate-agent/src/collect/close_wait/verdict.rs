//! From two looks at CLOSE_WAIT to a verdict: how fast each group grows, and when descriptors run out.

use std::time::Duration;

use serde::Serialize;

use super::{Advice, Cause, Report, ReportGroup, Role};
use crate::{
    collect::owners::ReportProcess,
    diagnosis::{Filter, compare::way_in},
};

/// More sockets than that, and `ss -p` takes seconds to find their processes.
const SS_FINDS_PROCESSES: u64 = 10_000;
/// Where so many should have come and none did, none come any more: by chance that happens once
/// in twenty times.
const SURELY_SEEN: f64 = 3.0;

/// A group and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedGroup {
    /// The group, at the second look.
    #[serde(flatten)]
    pub group: ReportGroup,
    /// Command line of the process. It may hold secrets: for the terminal only.
    pub command_line: Option<String>,
    /// What most of its threads wait for, where that is why the sockets stay.
    pub threads_wait: Option<String>,
    /// Sockets that it has gained a second; `None` for one look only.
    pub growth_per_second: Option<f64>,
    /// In how long the process has no descriptor left at this rate.
    pub fds_exhausted_in_seconds: Option<f64>,
    /// What the process has not done, in words.
    pub meaning: &'static str,
    /// What is wrong in the program, most likely.
    pub fault: &'static str,
    /// What to check in it.
    pub check: &'static str,
    /// A command that shows the sockets.
    pub command: String,
}

impl Filter {
    pub(crate) fn passes(&self, group: &ReportGroup) -> bool {
        let holds = |pid: u32| {
            let owner = group.process.as_ref().map(|process| process.pid);
            owner == Some(pid) || group.shared_with.contains(&pid)
        };
        self.pid.is_none_or(holds) && self.port.is_none_or(|port| group.port == port)
    }
}

impl DiagnosedGroup {
    pub(crate) fn new(
        group: ReportGroup,
        first: Option<(&Report, Duration)>,
        own_namespace: u32,
    ) -> Self {
        let before = first.map(|(report, interval)| {
            let same = report.groups.iter().find(|before| before.is_same(&group));
            (same, interval.as_secs_f64())
        });
        let growth_per_second = before.map(|(same, seconds)| {
            per_second(group.sockets, same.map_or(0, |same| same.sockets), seconds)
        });
        let fd_growth = before.and_then(|(same, seconds)| {
            let open = |group: &ReportGroup| group.process.as_ref()?.open_fds;
            Some(per_second(open(&group)?, open(same?)?, seconds))
        });
        let seen = [growth_per_second, fd_growth].into_iter().flatten();
        let seen = seen.filter(|rate| *rate > 0.0).reduce(f64::max);
        let rate = match group.cause {
            // Those that wait to be accepted take no descriptor.
            Cause::Unaccepted => 0.0,
            _ => seen.unwrap_or_else(|| slow_growth(&group, before.map(|(_, seconds)| seconds))),
        };
        let process = group.process.as_ref();
        let advice = Advice::of(group.cause, group.role);
        Self {
            fds_exhausted_in_seconds: process.and_then(|process| exhausted_in(process, rate)),
            command: command(&group, own_namespace),
            command_line: None,
            threads_wait: None,
            growth_per_second,
            meaning: advice.meaning,
            fault: advice.fault,
            check: advice.check,
            group,
        }
    }
}

/// What a look of seconds does not show, a minute may: how many came a second, unless so many
/// that some would have come between the two looks too.
fn slow_growth(group: &ReportGroup, seconds: Option<f64>) -> f64 {
    let rate = per_second(group.last_minute, 0, 60.0);
    let would_have_come = seconds.unwrap_or(0.0) * rate;
    if would_have_come < SURELY_SEEN {
        rate
    } else {
        0.0
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of sockets and descriptors, far below 2^53"
)]
fn per_second(now: u64, before: u64, seconds: f64) -> f64 {
    (now as f64 - before as f64) / seconds
}

#[expect(clippy::cast_precision_loss, reason = "descriptors, far below 2^53")]
fn exhausted_in(process: &ReportProcess, rate: f64) -> Option<f64> {
    let left = process.max_fds?.saturating_sub(process.open_fds?);
    (rate > 0.0).then(|| left as f64 / rate)
}

/// What shows these sockets: `ss`, in their namespace.
fn command(group: &ReportGroup, own_namespace: u32) -> String {
    let filter = match (group.port, group.role) {
        (0, _) => String::new(),
        (port, Role::Server) => format!(" '( sport = :{port} )'"),
        (port, Role::Client) => format!(" '( dport = :{port} )'"),
    };
    let options = if group.sockets > SS_FINDS_PROCESSES {
        "-tan"
    } else {
        "-tanp"
    };
    let way_in = way_in(group.namespace, group.process.as_ref(), own_namespace);
    format!("sudo {way_in}ss {options} state close-wait{filter}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::compare::tests::{HERE, group};

    #[test]
    fn the_command_shows_these_sockets_and_no_others() {
        for (change, expected) in [
            (
                &(|_: &mut ReportGroup| {}) as &dyn Fn(&mut ReportGroup),
                "sudo ss -tanp state close-wait '( sport = :80 )'",
            ),
            (
                &|group| group.role = Role::Client,
                "sudo ss -tanp state close-wait '( dport = :80 )'",
            ),
            (
                &|group| group.namespace = 7,
                "sudo nsenter --net=/proc/1/ns/net ss -tanp state close-wait '( sport = :80 )'",
            ),
            (
                &|group| group.sockets = 50_000,
                "sudo ss -tan state close-wait '( sport = :80 )'",
            ),
            (&|group| group.port = 0, "sudo ss -tanp state close-wait"),
        ] {
            let mut group = group(1, 80, 5);
            change(&mut group);
            assert_eq!(command(&group, HERE), expected);
        }
    }
}
