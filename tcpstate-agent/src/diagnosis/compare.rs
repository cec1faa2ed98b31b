//! From two looks to a diagnosis: how fast each group grows, and when descriptors run out.

use std::time::Duration;

use serde::Serialize;

use super::{Advice, Report, ReportGroup, ReportProcess};
use crate::model::close_wait::{Cause, Role};

/// Version of the JSON object.
const SCHEMA_VERSION: u32 = 1;
/// More sockets than that, and `ss -p` takes seconds to find their processes.
const SS_FINDS_PROCESSES: u64 = 10_000;
/// Where so many should have come and none did, none come any more: by chance that happens once
/// in twenty times.
const SURELY_SEEN: f64 = 3.0;
/// Sockets this young are on their way: closing takes a moment.
const PASSING: f64 = 1.0;

/// What to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only groups that this process holds, alone or with others.
    pub pid: Option<u32>,
    /// Only groups of this service port.
    pub port: Option<u16>,
    /// At most so many groups.
    pub limit: usize,
}

/// What there is to say about the sockets in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Version of this object.
    pub schema_version: u32,
    /// A running agent was asked. If not, the ages are lower bounds.
    pub from_agent: bool,
    /// Between the two looks, seconds; `None` for one look only.
    pub interval_seconds: Option<f64>,
    /// All sockets in CLOSE_WAIT, shown or not.
    pub sockets: u64,
    /// Sockets that the shown groups have.
    pub sockets_shown: u64,
    /// Groups that pass the filter, beyond its limit too.
    pub groups_found: usize,
    /// The groups, the largest first.
    pub groups: Vec<DiagnosedGroup>,
}

/// A group and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedGroup {
    /// The group, at the second look.
    #[serde(flatten)]
    pub group: ReportGroup,
    /// Command line of the process. It may hold secrets: for the terminal only.
    pub command_line: Option<String>,
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

impl Diagnosis {
    /// Compares two looks that are `interval` apart, or judges one. `own_namespace` is that of the
    /// person who asks.
    #[must_use]
    pub fn new(
        first: Option<(&Report, Duration)>,
        second: Report,
        filter: &Filter,
        from_agent: bool,
        own_namespace: u32,
    ) -> Self {
        let sockets = second.sockets;
        let mut groups: Vec<DiagnosedGroup> = second
            .groups
            .into_iter()
            .filter(|group| filter.passes(group))
            .map(|group| DiagnosedGroup::new(group, first, own_namespace))
            .collect();
        let groups_found = groups.len();
        groups.truncate(filter.limit);
        Self {
            schema_version: SCHEMA_VERSION,
            from_agent,
            interval_seconds: first.map(|(_, interval)| interval.as_secs_f64()),
            sockets,
            sockets_shown: groups.iter().map(|group| group.group.sockets).sum(),
            groups_found,
            groups,
        }
    }

    /// Whether any of the groups is more than connections that are just being closed.
    #[must_use]
    pub fn is_something_wrong(&self) -> bool {
        self.groups.iter().any(|group| {
            let group = &group.group;
            group.age_lower_bound_sockets > 0 || group.oldest_age_seconds >= PASSING
        })
    }
}

impl Filter {
    fn passes(&self, group: &ReportGroup) -> bool {
        let holds = |pid: u32| {
            let owner = group.process.as_ref().map(|process| process.pid);
            owner == Some(pid) || group.shared_with.contains(&pid)
        };
        self.pid.is_none_or(holds) && self.port.is_none_or(|port| group.port == port)
    }
}

impl DiagnosedGroup {
    fn new(group: ReportGroup, first: Option<(&Report, Duration)>, own_namespace: u32) -> Self {
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
        // Those that wait to be accepted take no descriptor.
        let rate = if group.cause == Cause::Unaccepted {
            0.0
        } else {
            seen.unwrap_or_else(|| slow_growth(&group, before.map(|(_, seconds)| seconds)))
        };
        let process = group.process.as_ref();
        let advice = Advice::of(group.cause, group.role);
        Self {
            fds_exhausted_in_seconds: process.and_then(|process| exhausted_in(process, rate)),
            command: command(&group, own_namespace),
            command_line: None,
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

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of descriptors, far below 2^53"
)]
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
    let way_in = match &group.process {
        _ if group.namespace == own_namespace => String::new(),
        Some(process) => format!("nsenter --net=/proc/{}/ns/net ", process.pid),
        None => format!("nsenter --net=NAMESPACE_{} ", group.namespace),
    };
    format!("sudo {way_in}ss {options} state close-wait{filter}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::diagnosis::ReportPeer;

    pub(crate) const HERE: u32 = 4_026_531_833;

    pub(crate) fn group(pid: u32, port: u16, sockets: u64) -> ReportGroup {
        ReportGroup {
            process: Some(ReportProcess {
                pid,
                start_boottime_ns: 1,
                name: "python3".to_owned(),
                executable: Some("/usr/bin/python3.11".into()),
                unit: "shop.service".to_owned(),
                container_id: String::new(),
                pod_uid: String::new(),
                open_fds: Some(sockets + 12),
                max_fds: Some(1024),
            }),
            shared_with: vec![pid + 1],
            namespace: HERE,
            role: Role::Server,
            port,
            cause: Cause::EofRead,
            sockets,
            last_minute: 0,
            oldest_age_seconds: 3_723.0,
            median_age_seconds: 61.0,
            age_lower_bound_sockets: 0,
            oldest_age_is_lower_bound: false,
            unread_bytes: 0,
            peers: vec![ReportPeer {
                address: "10.0.0.7".parse().unwrap(),
                sockets,
            }],
        }
    }

    pub(crate) fn report(groups: Vec<ReportGroup>) -> Report {
        Report {
            sockets: groups.iter().map(|group| group.sockets).sum(),
            groups,
        }
    }

    fn all() -> Filter {
        Filter {
            limit: 10,
            ..Filter::default()
        }
    }

    #[test]
    fn growth_and_exhaustion_follow_from_two_looks() {
        let first = report(vec![group(1, 80, 100)]);
        let second = report(vec![group(1, 80, 120), group(2, 80, 5)]);
        let interval = Duration::from_secs(2);
        let diagnosis = Diagnosis::new(Some((&first, interval)), second, &all(), true, HERE);
        let [grown, new] = &diagnosis.groups[..] else {
            panic!("{diagnosis:?}");
        };
        assert_eq!(grown.growth_per_second, Some(10.0));
        // 892 descriptors are left.
        assert_eq!(grown.fds_exhausted_in_seconds, Some(89.2));
        assert_eq!(new.growth_per_second, Some(2.5));
    }

    #[test]
    fn one_look_knows_no_growth_but_the_last_minute() {
        let slow = ReportGroup {
            last_minute: 6,
            ..group(1, 80, 100)
        };
        let diagnosis = Diagnosis::new(None, report(vec![slow]), &all(), true, HERE);
        assert_eq!(diagnosis.groups[0].growth_per_second, None);
        assert_eq!(diagnosis.groups[0].fds_exhausted_in_seconds, Some(9_120.0));
    }

    #[test]
    fn the_json_is_as_documented() {
        let first = report(vec![group(1, 80, 100)]);
        let second = report(vec![group(1, 80, 120)]);
        let interval = Duration::from_secs(2);
        let diagnosis = Diagnosis::new(Some((&first, interval)), second, &all(), true, HERE);
        let documented = include_str!("../../../docs/json.md");
        let section = documented.split("## `diagnose`").nth(1).unwrap();
        let example = section.split("```json").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let example: serde_json::Value = serde_json::from_str(example).unwrap();
        assert_eq!(serde_json::to_value(&diagnosis).unwrap(), example);
    }

    #[test]
    fn growth_that_has_stopped_exhausts_nothing_and_slow_growth_does() {
        let interval = Duration::from_secs(2);
        for (last_minute, exhausted) in [(6, Some(9_120.0)), (600, None)] {
            let group = ReportGroup {
                last_minute,
                ..group(1, 80, 100)
            };
            let first = report(vec![group.clone()]);
            let second = report(vec![group]);
            let first = Some((&first, interval));
            let diagnosis = Diagnosis::new(first, second, &all(), true, HERE);
            assert_eq!(diagnosis.groups[0].fds_exhausted_in_seconds, exhausted);
        }
    }

    #[test]
    fn a_process_of_the_same_number_is_not_the_same_process() {
        let first = report(vec![group(1, 80, 100)]);
        let mut later = group(1, 80, 120);
        later.process.as_mut().unwrap().start_boottime_ns = 2;
        let interval = Duration::from_secs(2);
        let second = report(vec![later]);
        let diagnosis = Diagnosis::new(Some((&first, interval)), second, &all(), true, HERE);
        assert_eq!(diagnosis.groups[0].growth_per_second, Some(60.0));
    }

    #[test]
    fn the_filter_keeps_what_matches_and_counts_what_it_cuts() {
        let found = report(vec![group(10, 80, 9), group(20, 80, 8), group(30, 81, 7)]);
        for (pid, port, limit, shown, groups_found) in [
            (None, None, 10, 24, 3),
            (None, Some(80), 10, 17, 2),
            (None, None, 1, 9, 3),
            (Some(20), None, 10, 8, 1),
            (Some(21), None, 10, 8, 1),
            (Some(21), Some(81), 10, 0, 0),
        ] {
            let filter = Filter { pid, port, limit };
            let diagnosis = Diagnosis::new(None, found.clone(), &filter, true, HERE);
            assert_eq!(
                (diagnosis.sockets_shown, diagnosis.groups_found),
                (shown, groups_found),
                "{filter:?}"
            );
            assert_eq!(diagnosis.sockets, 24);
        }
    }

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

    #[test]
    fn connections_that_are_being_closed_are_nothing_wrong() {
        let passing = ReportGroup {
            oldest_age_seconds: 0.2,
            ..group(1, 80, 5)
        };
        let unknown = ReportGroup {
            age_lower_bound_sockets: 1,
            ..passing.clone()
        };
        for (group, is_wrong) in [(passing, false), (unknown, true), (group(1, 80, 5), true)] {
            let diagnosis = Diagnosis::new(None, report(vec![group]), &all(), true, HERE);
            assert_eq!(diagnosis.is_something_wrong(), is_wrong);
        }
    }
}
