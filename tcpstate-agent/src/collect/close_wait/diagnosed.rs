//! From two looks at CLOSE_WAIT to what is wrong with each group, and what follows.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    Report, ReportGroup, Role, Verdict,
    advice::Advice,
    alike::put_together,
    growth::{Growth, exhausted_in},
};
use crate::{
    diagnosis::{Filter, NamespacePaths},
    host::process::ProcessId,
};

/// More sockets than that, and `ss -p` takes seconds to find their processes.
const SS_FINDS_PROCESSES: u64 = 10_000;
/// Sockets this young are on their way: closing takes a moment.
const PASSING: f64 = 1.0;

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
    /// What is wrong, most likely.
    pub verdict: Verdict,
    /// How many more each second, between the two looks or steadily before; `None` where that is not
    /// known.
    pub growth_per_second: Option<f64>,
    /// In how long the process has no descriptor left, where it goes on like that; 0 where it has
    /// none.
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
        self.is_held(group.process.as_ref(), &group.shared_with)
            && self.port.is_none_or(|port| group.port == port)
    }
}

/// The groups of the second of two looks, or of one, that pass the filter, the largest first.
pub(crate) fn diagnose(
    second: Vec<ReportGroup>,
    first: Option<(&Report, Duration)>,
    filter: &Filter,
    namespaces: &NamespacePaths,
) -> Vec<DiagnosedGroup> {
    let first = first.map(|(report, interval)| (put_together(report.groups.clone()), interval));
    let first = first
        .as_ref()
        .map(|(groups, interval)| (&groups[..], *interval));
    let passing = second.into_iter().filter(|group| filter.passes(group));
    let mut groups: Vec<_> = put_together(passing.collect())
        .into_iter()
        .map(|group| DiagnosedGroup::new(group, first, namespaces))
        .collect();
    forecast(&mut groups);
    groups.into_iter().map(|(group, _)| group).collect()
}

impl DiagnosedGroup {
    fn new(
        mut group: ReportGroup,
        first: Option<(&[ReportGroup], Duration)>,
        namespaces: &NamespacePaths,
    ) -> (Self, Growth) {
        let before = first.map(|(groups, interval)| {
            let same = groups.iter().find(|before| before.is_same(&group));
            (same, interval)
        });
        let growth = Growth::of(&group, before);
        group.facts.is_growing |= growth.lasting.is_some();
        let verdict = group.verdict();
        let Advice { fault, check, .. } = verdict.advice();
        let diagnosed = Self {
            verdict,
            fds_exhausted_in_seconds: None,
            command: command(&group, namespaces),
            command_line: None,
            threads_wait: None,
            growth_per_second: growth.per_second,
            meaning: group.cause.meaning(),
            fault,
            check,
            group,
        };
        (diagnosed, growth)
    }

    /// Whether it is more than connections that are just being closed.
    pub(crate) fn is_lasting(&self) -> bool {
        let group = &self.group;
        group.age_lower_bound_sockets > 0 || group.oldest_age_seconds >= PASSING
    }
}

/// When the processes have no descriptor left, by how fast all of their groups grow.
fn forecast(groups: &mut [(DiagnosedGroup, Growth)]) {
    let mut lasting = BTreeMap::<ProcessId, f64>::new();
    for (group, growth) in groups.iter() {
        if let Some(process) = &group.group.process {
            *lasting.entry(process.id()).or_default() += growth.lasting.unwrap_or(0.0);
        }
    }
    for (group, _) in groups {
        let process = group.group.process.as_ref();
        group.fds_exhausted_in_seconds = process
            .and_then(|process| exhausted_in(process.fds_left()?, *lasting.get(&process.id())?));
    }
}

/// What shows these sockets: `ss`, in their namespace.
fn command(group: &ReportGroup, namespaces: &NamespacePaths) -> String {
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
    namespaces.command(
        group.namespace,
        &format!("ss {options} state close-wait{filter}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{compare::tests::group, namespace_paths::tests::paths};

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
            assert_eq!(command(&group, &paths()), expected);
        }
    }
}
