//! From two looks to a diagnosis of everything.

use std::time::Duration;

use serde::Serialize;

use crate::collect::{
    close_wait::{DiagnosedGroup, Report},
    listeners::{DiagnosedListener, ListeningReport},
    outgoing::{ConnectionsReport, DiagnosedDestination},
    owners::ReportProcess,
    unanswered::DiagnosedUnanswered,
};

/// Version of the JSON object.
const SCHEMA_VERSION: u32 = 1;
/// Sockets this young are on their way: closing takes a moment.
const PASSING: f64 = 1.0;

/// What to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only groups that this process holds, alone or with others.
    pub pid: Option<u32>,
    /// Only groups of this service port.
    pub port: Option<u16>,
    /// At most so many groups, and so many of what else is wrong.
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
    /// The listeners that are in trouble, the busiest first; `None` where that cannot be told.
    pub listeners: Option<Vec<DiagnosedListener>>,
    /// The destinations that local ports are running out for; `None` where that cannot be told.
    pub destinations: Option<Vec<DiagnosedDestination>>,
    /// The connections whose peers do not answer; `None` where that cannot be told.
    pub unanswered: Option<Vec<DiagnosedUnanswered>>,
    /// How many more there are of the last three, beyond the filter's limit.
    pub not_shown: NotShown,
}

/// What passes the filter and is not shown because of its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotShown {
    /// Listeners in trouble.
    pub listeners: usize,
    /// Destinations.
    pub destinations: usize,
    /// Groups of connections whose peers do not answer.
    pub unanswered: usize,
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
            listeners: None,
            destinations: None,
            unanswered: None,
            not_shown: NotShown::default(),
        }
    }

    /// The same with what is wrong with what listens.
    #[must_use]
    pub fn with_listeners(
        mut self,
        found: ListeningReport,
        filter: &Filter,
        own_namespace: u32,
    ) -> Self {
        let listeners = found.listeners.into_iter();
        let in_trouble = listeners
            .filter(|listener| filter.passes_listener(listener))
            .filter_map(|listener| DiagnosedListener::new(listener, own_namespace));
        let (shown, not_shown) = filter.cut(in_trouble);
        self.listeners = Some(shown);
        self.not_shown.listeners = not_shown;
        self
    }

    /// The same with what is wrong with connections. Not for one process alone: whose they are is
    /// not known.
    #[must_use]
    pub fn with_connections(
        mut self,
        first: Option<(&ConnectionsReport, Duration)>,
        found: ConnectionsReport,
        filter: &Filter,
        own_namespace: u32,
    ) -> Self {
        if filter.pid.is_some() {
            return self;
        }
        let destinations = found.destinations.into_iter();
        let destinations = destinations
            .filter(|destination| filter.passes_destination(destination))
            .filter_map(|destination| DiagnosedDestination::new(destination, first, own_namespace));
        let unanswered = found.unanswered.into_iter();
        let unanswered = unanswered
            .filter(|group| filter.passes_unanswered(group))
            .filter_map(|group| DiagnosedUnanswered::new(group, own_namespace));
        let (shown, not_shown) = filter.cut(destinations);
        self.destinations = Some(shown);
        self.not_shown.destinations = not_shown;
        let (shown, not_shown) = filter.cut(unanswered);
        self.unanswered = Some(shown);
        self.not_shown.unanswered = not_shown;
        self
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
    /// As many of `all` as are shown, and how many are not.
    fn cut<T>(&self, all: impl Iterator<Item = T>) -> (Vec<T>, usize) {
        let mut all = all;
        let shown = all.by_ref().take(self.limit).collect();
        (shown, all.count())
    }
}

/// What a command that shows sockets of `namespace` begins with.
pub(crate) fn way_in(
    namespace: u32,
    process: Option<&ReportProcess>,
    own_namespace: u32,
) -> String {
    match process {
        _ if namespace == own_namespace => String::new(),
        Some(process) => format!("nsenter --net=/proc/{}/ns/net ", process.pid),
        None => format!("nsenter --net=NAMESPACE_{namespace} "),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::collect::{
        close_wait::{Cause, ReportGroup, ReportPeer, Role},
        listeners::report::tests::stuck,
        outgoing::report::tests::destination,
        unanswered::{UnansweredState, report::tests::unanswered},
    };

    pub(crate) const HERE: u32 = 4_026_531_833;

    pub(crate) fn process(pid: u32, open_fds: u64) -> ReportProcess {
        ReportProcess {
            pid,
            start_boottime_ns: 1,
            name: "python3".to_owned(),
            executable: Some("/usr/bin/python3.11".into()),
            unit: "shop.service".to_owned(),
            container_id: String::new(),
            pod_uid: String::new(),
            open_fds: Some(open_fds),
            max_fds: Some(1024),
        }
    }

    pub(crate) fn group(pid: u32, port: u16, sockets: u64) -> ReportGroup {
        ReportGroup {
            process: Some(process(pid, sockets + 12)),
            made_in: None,
            shared_with: vec![pid + 1],
            namespace: HERE,
            role: Role::Server,
            port,
            cause: Cause::EofRead,
            sockets,
            last_minute: 0,
            oldest_age_seconds: 3_723.0,
            oldest_descriptor: Some(17),
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
        let listening = ListeningReport {
            listeners: vec![stuck()],
        };
        let diagnosis = Diagnosis::new(Some((&first, interval)), second, &all(), true, HERE)
            .with_listeners(listening, &all(), HERE);
        let connections = |held| ConnectionsReport {
            destinations: vec![destination(held, 700, 50)],
            unanswered: vec![unanswered(UnansweredState::LastAck, 20)],
        };
        let first = connections(850);
        let diagnosis =
            diagnosis.with_connections(Some((&first, interval)), connections(950), &all(), HERE);
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
    fn whose_connections_they_are_is_not_known_and_so_not_asked() {
        let found = || ConnectionsReport {
            destinations: vec![destination(950, 0, 0)],
            unanswered: vec![unanswered(UnansweredState::Established, 1)],
        };
        for (pid, port, shown) in [
            (None, None, Some((1, 1))),
            (None, Some(443), Some((1, 1))),
            (None, Some(444), Some((0, 0))),
            (Some(1), None, None),
        ] {
            let filter = Filter {
                pid,
                port,
                limit: 10,
            };
            let diagnosis = Diagnosis::new(None, report(Vec::new()), &filter, true, HERE)
                .with_connections(None, found(), &filter, HERE);
            let lengths = diagnosis.destinations.zip(diagnosis.unanswered);
            let lengths = lengths.map(|(one, other)| (one.len(), other.len()));
            assert_eq!(lengths, shown, "{filter:?}");
        }
    }

    #[test]
    fn what_the_limit_leaves_out_is_told() {
        let found = || ConnectionsReport {
            destinations: vec![destination(950, 0, 0); 3],
            unanswered: vec![unanswered(UnansweredState::Established, 1)],
        };
        for (limit, shown, not_shown) in [(10, 3, 0), (3, 3, 0), (1, 1, 2)] {
            let filter = Filter {
                limit,
                ..Filter::default()
            };
            let diagnosis = Diagnosis::new(None, report(Vec::new()), &filter, true, HERE)
                .with_connections(None, found(), &filter, HERE);
            let destinations = diagnosis.destinations.as_deref().map(<[_]>::len);
            assert_eq!(destinations, Some(shown));
            assert_eq!(diagnosis.not_shown.destinations, not_shown);
            assert_eq!(diagnosis.not_shown.unanswered, 0);
            let mut text = Vec::new();
            crate::diagnosis::write_text(&mut text, &diagnosis).unwrap();
            let text = String::from_utf8(text).unwrap();
            let told = text.contains("\nNot shown: 2 destinations more (--limit).\n");
            assert_eq!(told, not_shown > 0, "{text}");
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
