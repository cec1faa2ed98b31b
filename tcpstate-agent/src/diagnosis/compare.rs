//! From two looks to a diagnosis of everything.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::NamespacePaths;
use crate::collect::{
    close_wait::{
        Cause, DiagnosedGroup, DiagnosedMptcp, Report, ReportGroup, Verdict, diagnosed::diagnose,
    },
    listeners::{DiagnosedListener, ListeningReport, ReportListener},
    outgoing::{ConnectionsReport, DiagnosedDestination},
    owners::ReportProcess,
    unanswered::DiagnosedUnanswered,
};

/// Version of the JSON object.
const SCHEMA_VERSION: u32 = 2;

/// What to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// Only groups that this process holds, alone or with others.
    pub pid: Option<u32>,
    /// Only groups of this service port.
    pub port: Option<u16>,
    /// At most so many groups, and so many of what else is wrong.
    pub limit: usize,
}

impl Filter {
    /// Whether the process that is asked for is this one, or one of those that share with it.
    pub(crate) fn is_held(&self, process: Option<&ReportProcess>, shared_with: &[u32]) -> bool {
        self.pid.is_none_or(|pid| {
            process.is_some_and(|process| process.pid == pid) || shared_with.contains(&pid)
        })
    }
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
    /// MPTCP connections in CLOSE_WAIT, which are not among the sockets above; the largest group first.
    pub mptcp: Vec<DiagnosedMptcp>,
    /// The listeners that are in trouble, the busiest first; `None` where that cannot be told.
    pub listeners: Option<Vec<DiagnosedListener>>,
    /// The destinations that local ports are running out for; `None` where that cannot be told.
    pub destinations: Option<Vec<DiagnosedDestination>>,
    /// The connections whose peers do not answer; `None` where that cannot be told.
    pub unanswered: Option<Vec<DiagnosedUnanswered>>,
    /// How many more there are of the last four, beyond the filter's limit.
    pub not_shown: NotShown,
    /// What was asked for.
    pub filter: Filter,
    /// Whether the process exists that was asked for; `None` where none was, or that is not known.
    pub process_exists: Option<bool>,
    /// How much passes the filter, whether or not anything is wrong with it: groups in CLOSE_WAIT,
    /// listeners, destinations, and groups that wait for their peers.
    pub matching: usize,
    /// Sockets that are closed, whose peers do not answer, and that are too few to be listed.
    pub too_few: u64,
    /// Whether any group that passes the filter, shown or not, is more than connections that are just
    /// being closed.
    #[serde(skip)]
    pub(super) has_lasting: bool,
    /// Who listens, by namespace and port.
    #[serde(skip)]
    pub(super) listening: BTreeMap<(u32, u16), ReportProcess>,
    /// What is not accepted, shown or not.
    #[serde(skip)]
    pub(super) unaccepted: Vec<(ReportGroup, Verdict)>,
}

/// What passes the filter and is not shown because of its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotShown {
    /// Groups of MPTCP connections.
    pub mptcp: usize,
    /// Listeners in trouble.
    pub listeners: usize,
    /// Destinations.
    pub destinations: usize,
    /// Groups of connections whose peers do not answer.
    pub unanswered: usize,
}

impl Diagnosis {
    /// Compares two looks that are `interval` apart, or judges one.
    #[must_use]
    pub fn new(
        first: Option<(&Report, Duration)>,
        second: Report,
        filter: &Filter,
        from_agent: bool,
        namespaces: &NamespacePaths,
    ) -> Self {
        let sockets = second.sockets;
        let mut groups = diagnose(second.groups, first, filter, namespaces);
        let groups_found = groups.len();
        let has_lasting = groups.iter().any(DiagnosedGroup::is_lasting);
        let unaccepted = unaccepted(&groups);
        groups.truncate(filter.limit);
        let mptcp = second.mptcp.into_iter();
        let mptcp: Vec<_> = mptcp.filter(|group| filter.passes_mptcp(group)).collect();
        let matching = groups_found + mptcp.len();
        let mptcp = mptcp.into_iter();
        let (mptcp, mptcp_not_shown) =
            filter.cut(mptcp.filter_map(|group| DiagnosedMptcp::new(group, namespaces)));
        Self {
            schema_version: SCHEMA_VERSION,
            from_agent,
            interval_seconds: first.map(|(_, interval)| interval.as_secs_f64()),
            sockets,
            sockets_shown: groups.iter().map(|group| group.group.sockets).sum(),
            groups_found,
            groups,
            mptcp,
            listeners: None,
            destinations: None,
            unanswered: None,
            not_shown: NotShown {
                mptcp: mptcp_not_shown,
                ..NotShown::default()
            },
            filter: filter.clone(),
            process_exists: None,
            matching,
            too_few: 0,
            has_lasting,
            listening: BTreeMap::new(),
            unaccepted,
        }
    }

    /// The same with what is wrong with what listens.
    #[must_use]
    pub fn with_listeners(
        mut self,
        found: ListeningReport,
        filter: &Filter,
        namespaces: &NamespacePaths,
    ) -> Self {
        let processes = found.listeners.iter().filter_map(|listener| {
            let at = (listener.namespace, listener.address.port());
            Some((at, listener.process.clone()?))
        });
        self.listening = processes.collect();
        let listeners = found.listeners.into_iter();
        let listeners = listeners.filter(|listener| filter.passes_listener(listener));
        let listeners: Vec<_> = listeners.collect();
        self.matching += listeners.len();
        let in_trouble = listeners.into_iter().filter_map(|listener| {
            let waiting = self.unaccepted_of(&listener);
            DiagnosedListener::new(listener, waiting, namespaces)
        });
        let (shown, not_shown) = filter.cut(in_trouble);
        self.listeners = Some(shown);
        self.not_shown.listeners = not_shown;
        self
    }

    /// What was not accepted of a listener: of its own process where others listen there too, else the
    /// largest group.
    fn unaccepted_of(&self, listener: &ReportListener) -> Option<(&ReportGroup, Verdict)> {
        let at = (listener.namespace, listener.address.port());
        let there = self.unaccepted.iter();
        let mut there = there.filter(|(group, _)| (group.namespace, group.port) == at);
        let pid = |process: &Option<ReportProcess>| process.as_ref().map(|process| process.pid);
        let own = there
            .clone()
            .find(|(group, _)| pid(&group.process) == pid(&listener.process));
        let (group, verdict) = own.or_else(|| there.next())?;
        Some((group, *verdict))
    }

    /// The same with what is wrong with connections. Of one process alone where local ports are taken
    /// is not known.
    #[must_use]
    pub fn with_connections(
        mut self,
        first: Option<(&ConnectionsReport, Duration)>,
        found: ConnectionsReport,
        filter: &Filter,
        namespaces: &NamespacePaths,
    ) -> Self {
        if filter.pid.is_none() {
            let destinations = found.destinations.into_iter();
            let destinations =
                destinations.filter(|destination| filter.passes_destination(destination));
            let destinations: Vec<_> = destinations.collect();
            self.matching += destinations.len();
            let destinations = destinations
                .into_iter()
                .filter_map(|found| DiagnosedDestination::new(found, first, namespaces));
            let (shown, not_shown) = filter.cut(destinations);
            self.destinations = Some(shown);
            self.not_shown.destinations = not_shown;
        }
        let unanswered = found.unanswered.into_iter();
        let unanswered = unanswered.filter(|group| filter.passes_unanswered(group));
        let unanswered: Vec<_> = unanswered.collect();
        self.matching += unanswered.len();
        let (listed, too_few): (Vec<_>, Vec<_>) = unanswered
            .into_iter()
            .partition(DiagnosedUnanswered::matters);
        self.too_few = too_few.iter().map(|group| group.sockets).sum();
        let listed = listed.into_iter();
        let listed = listed.map(|group| {
            let listener = self.listening.get(&(group.namespace, group.local_port));
            DiagnosedUnanswered::new(group, listener.cloned(), namespaces)
        });
        let (shown, not_shown) = filter.cut(listed);
        self.unanswered = Some(shown);
        self.not_shown.unanswered = not_shown;
        self
    }

    /// Whether any of the shown groups is more than connections that are just being closed.
    #[must_use]
    pub fn is_something_wrong(&self) -> bool {
        self.groups.iter().any(DiagnosedGroup::is_lasting)
    }
}

/// What is not accepted.
fn unaccepted(groups: &[DiagnosedGroup]) -> Vec<(ReportGroup, Verdict)> {
    let groups = groups.iter();
    let groups = groups.filter(|group| group.group.cause == Cause::Unaccepted);
    groups
        .map(|group| (group.group.clone(), group.verdict))
        .collect()
}

impl Filter {
    /// As many of `all` as are shown, and how many are not.
    fn cut<T>(&self, all: impl Iterator<Item = T>) -> (Vec<T>, usize) {
        let mut all = all;
        let shown = all.by_ref().take(self.limit).collect();
        (shown, all.count())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        collect::{
            close_wait::{
                ReportGroup, ReportPeer, Role, mptcp::tests::mptcp, verdict::tests::facts,
            },
            listeners::report::tests::stuck,
            outgoing::report::tests::destination,
            unanswered::{ReportUnanswered, UnansweredState, report::tests::unanswered},
        },
        diagnosis::namespace_paths::tests::paths,
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
            alike: Vec::new(),
            shared_with: vec![pid + 1],
            shared_names: vec!["helper".to_owned()],
            namespace: HERE,
            role: Role::Server,
            port,
            cause: Cause::EofRead,
            sockets,
            last_minute: 0,
            oldest_age_seconds: 3_723.0,
            oldest_descriptor: Some(17),
            youngest_age_seconds: 0.5,
            median_age_seconds: 61.0,
            age_lower_bound_sockets: 0,
            oldest_age_is_lower_bound: false,
            unread_bytes: 0,
            unacknowledged_bytes: 0,
            arrivals_per_second: None,
            facts: facts(),
            candidates: Vec::new(),
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
            mptcp: Vec::new(),
        }
    }

    fn all() -> Filter {
        Filter {
            limit: 10,
            ..Filter::default()
        }
    }

    /// As one that leaks at this rate.
    pub(crate) fn leaking(group: ReportGroup, per_second: f64) -> ReportGroup {
        let mut group = ReportGroup {
            arrivals_per_second: Some(per_second),
            ..group
        };
        group.facts.is_growing = true;
        group
    }

    #[test]
    fn growth_and_exhaustion_follow_from_two_looks() {
        let first = report(vec![group(1, 80, 100)]);
        let second = report(vec![
            leaking(group(1, 80, 120), 10.0),
            leaking(group(1, 81, 30), 1.0),
            group(2, 80, 5),
        ]);
        let interval = Duration::from_secs(2);
        let diagnosis = Diagnosis::new(Some((&first, interval)), second, &all(), true, &paths());
        let [grown, new, still] = &diagnosis.groups[..] else {
            panic!("{diagnosis:?}");
        };
        assert_eq!(grown.growth_per_second, Some(10.0));
        // 892 descriptors are left, and both groups take some.
        assert_eq!(grown.fds_exhausted_in_seconds, Some(892.0 / 11.0));
        assert_eq!(new.growth_per_second, Some(1.0));
        assert_eq!(still.growth_per_second, None);
        assert_eq!(still.fds_exhausted_in_seconds, None);
    }

    #[test]
    fn where_no_descriptor_is_left_it_is_not_a_forecast() {
        let mut full = group(1, 80, 100);
        full.process.as_mut().unwrap().open_fds = Some(1024);
        let diagnosis = Diagnosis::new(None, report(vec![full]), &all(), true, &paths());
        assert_eq!(diagnosis.groups[0].fds_exhausted_in_seconds, Some(0.0));
    }

    #[test]
    fn a_listener_without_descriptors_is_not_told_to_accept_faster() {
        let listener = |open_fds| {
            let mut listener = stuck();
            listener.process.as_mut().unwrap().open_fds = Some(open_fds);
            ListeningReport {
                listeners: vec![listener],
            }
        };
        let mut waiting = group(4711, 8080, 29);
        waiting.cause = Cause::Unaccepted;
        for (open_fds, groups, expected) in [
            (1_024, vec![], Some(Verdict::DescriptorsExhausted)),
            (141, vec![waiting], Some(Verdict::BlockedAccept)),
            (141, vec![], None),
        ] {
            let diagnosis = Diagnosis::new(None, report(groups), &all(), true, &paths())
                .with_listeners(listener(open_fds), &all(), &paths());
            let found = &diagnosis.listeners.unwrap()[0];
            assert_eq!(found.verdict, expected);
            if let Some(verdict) = expected {
                assert_eq!(found.fault, verdict.advice().fault);
            }
        }
    }

    #[test]
    fn of_a_listener_those_are_named_that_should_accept() {
        let listening = || {
            let mut shared = stuck();
            shared.process = Some(process(1, 5));
            shared.shared_with = vec![2, 3];
            ListeningReport {
                listeners: vec![shared],
            }
        };
        let waiting = |pid, others: &[u32], is_one_of| {
            let mut waiting = group(pid, 8080, 5);
            waiting.cause = Cause::Unaccepted;
            waiting.shared_with = others.to_vec();
            waiting.shared_names = vec!["python3".to_owned(); others.len().min(1)];
            waiting.facts.is_one_of = is_one_of;
            waiting
        };
        for (waiting, expected) in [
            (waiting(3, &[], false), "\n! python3 (3) [shop.service], "),
            (
                waiting(3, &[2], false),
                "   shared    with python3 (pid 2)\n",
            ),
            (
                waiting(3, &[1, 2], true),
                "\n! one of python3 (pid 3) and python3 (pid 1, 2), ",
            ),
            // Of another listener on the port.
            (waiting(9, &[], false), "\n! python3 (1) [shop.service], "),
        ] {
            let diagnosis = Diagnosis::new(None, report(vec![waiting]), &all(), true, &paths())
                .with_listeners(listening(), &all(), &paths());
            let mut text = Vec::new();
            crate::diagnosis::write_text(&mut text, &diagnosis).unwrap();
            let text = String::from_utf8(text).unwrap();
            let (_, listeners) = text.split_once("LISTENERS: ").unwrap();
            assert!(listeners.contains(expected), "{listeners}");
        }
    }

    /// Two groups are larger than the one that waits on the listener.
    #[test]
    fn a_small_limit_hides_groups_and_not_what_is_wrong_with_a_listener() {
        let mut waiting = group(4711, 8080, 5);
        waiting.cause = Cause::Unaccepted;
        let found = || report(vec![group(1, 80, 90), group(2, 81, 80), waiting.clone()]);
        let listening = || ListeningReport {
            listeners: vec![stuck()],
        };
        for limit in 1..=3 {
            let filter = Filter { limit, ..all() };
            let diagnosis = Diagnosis::new(None, found(), &filter, true, &paths()).with_listeners(
                listening(),
                &filter,
                &paths(),
            );
            let listener = &diagnosis.listeners.unwrap()[0];
            assert_eq!(listener.verdict, Some(Verdict::BlockedAccept), "{limit}");
        }
    }

    #[test]
    fn the_json_is_as_documented() {
        let first = report(vec![group(1, 80, 100)]);
        let mut second = report(vec![leaking(group(1, 80, 120), 10.0)]);
        second.mptcp = vec![mptcp(4711, 8080, 61.0)];
        let interval = Duration::from_secs(2);
        let listening = ListeningReport {
            listeners: vec![stuck()],
        };
        let diagnosis = Diagnosis::new(Some((&first, interval)), second, &all(), true, &paths())
            .with_listeners(listening, &all(), &paths());
        let connections = |held| ConnectionsReport {
            destinations: vec![destination(held, 700, 50)],
            unanswered: vec![unanswered(UnansweredState::LastAck, 20)],
        };
        let first = connections(850);
        let diagnosis = diagnosis.with_connections(
            Some((&first, interval)),
            connections(950),
            &all(),
            &paths(),
        );
        let documented = include_str!("../../../docs/json.md");
        let section = documented.split("## `diagnose`").nth(1).unwrap();
        let example = section.split("```json").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let example: serde_json::Value = serde_json::from_str(example).unwrap();
        assert_eq!(serde_json::to_value(&diagnosis).unwrap(), example);
    }

    #[test]
    fn a_process_of_the_same_number_is_not_the_same_process() {
        let first = report(vec![group(1, 80, 100)]);
        let mut later = group(1, 80, 120);
        later.process.as_mut().unwrap().start_boottime_ns = 2;
        let interval = Duration::from_secs(2);
        let second = report(vec![later]);
        let diagnosis = Diagnosis::new(Some((&first, interval)), second, &all(), true, &paths());
        // Its sockets are older than the interval, and were not found at the first look.
        assert_eq!(diagnosis.groups[0].growth_per_second, None);
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
            let diagnosis = Diagnosis::new(None, found.clone(), &filter, true, &paths());
            assert_eq!(
                (diagnosis.sockets_shown, diagnosis.groups_found),
                (shown, groups_found),
                "{filter:?}"
            );
            assert_eq!(diagnosis.sockets, 24);
        }
    }

    #[test]
    fn connections_are_those_of_a_process_where_that_is_known() {
        let found = || ConnectionsReport {
            destinations: vec![destination(950, 0, 0)],
            unanswered: vec![ReportUnanswered {
                process: Some(process(8, 20)),
                ..unanswered(UnansweredState::Established, 1)
            }],
        };
        for (pid, port, shown) in [
            (None, None, (Some(1), 1)),
            (None, Some(443), (Some(1), 1)),
            (None, Some(444), (Some(0), 0)),
            // Process 8 holds the connection, and ports are not known by process.
            (Some(8), None, (None, 1)),
            (Some(1), None, (None, 0)),
        ] {
            let filter = Filter {
                pid,
                port,
                limit: 10,
            };
            let diagnosis = Diagnosis::new(None, report(Vec::new()), &filter, true, &paths())
                .with_connections(None, found(), &filter, &paths());
            let destinations = diagnosis.destinations.as_ref().map(Vec::len);
            let unanswered = diagnosis.unanswered.unwrap().len();
            assert_eq!((destinations, unanswered), shown, "{filter:?}");
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
            let diagnosis = Diagnosis::new(None, report(Vec::new()), &filter, true, &paths())
                .with_connections(None, found(), &filter, &paths());
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
            let diagnosis = Diagnosis::new(None, report(vec![group]), &all(), true, &paths());
            assert_eq!(diagnosis.is_something_wrong(), is_wrong);
        }
    }
}
