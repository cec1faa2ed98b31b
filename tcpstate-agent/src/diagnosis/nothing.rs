//! What is said where there is nothing to show: only of what was looked at.

use std::io::{self, Write};

use super::{
    Diagnosis,
    words::{are, count, counted},
};

/// States in which a peer is waited for.
const WAITING: &str = "SYN_SENT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSING or LAST_ACK";

/// Writes why nothing is shown.
pub(crate) fn write_nothing(out: &mut dyn Write, diagnosis: &Diagnosis) -> io::Result<()> {
    let hidden = hidden(diagnosis);
    if hidden > 0 {
        return writeln!(
            out,
            "nothing is shown, because --limit is {}: {} to show",
            diagnosis.filter.limit,
            if hidden == 1 {
                "there is 1 thing".to_owned()
            } else {
                format!("there are {}", counted(count(hidden), "thing"))
            }
        );
    }
    if let Some(pid) = diagnosis.filter.pid
        && diagnosis.process_exists == Some(false)
    {
        return writeln!(out, "nothing matches: no process has the number {pid}");
    }
    if let Some(filter) = filter(diagnosis)
        && diagnosis.matching == 0
    {
        return writeln!(
            out,
            "nothing matches {filter}: no listener, no socket in CLOSE_WAIT, and nothing that waits \
             for its peer. Connections that are in good order are not looked at."
        );
    }
    writeln!(
        out,
        "nothing wrong{}: {}",
        of(diagnosis),
        examined(diagnosis)
    )?;
    writeln!(out, "Not looked at: {}.", not_examined(diagnosis))
}

/// How much is not shown because of the limit.
fn hidden(diagnosis: &Diagnosis) -> usize {
    let groups = if diagnosis.has_lasting {
        diagnosis.groups_found - diagnosis.groups.len()
    } else {
        0
    };
    let more = diagnosis.not_shown;
    groups + more.mptcp + more.listeners + more.destinations + more.unanswered
}

fn filter(diagnosis: &Diagnosis) -> Option<String> {
    let pid = diagnosis.filter.pid.map(|pid| format!("--pid {pid}"));
    let port = diagnosis.filter.port.map(|port| format!("--port {port}"));
    let all: Vec<String> = [pid, port].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(" "))
}

fn of(diagnosis: &Diagnosis) -> String {
    filter(diagnosis).map_or_else(String::new, |filter| format!(" with {filter}"))
}

/// What was looked at, and found in order.
fn examined(diagnosis: &Diagnosis) -> String {
    let mut all = vec![match (diagnosis.sockets_shown, diagnosis.sockets) {
        (0, _) if diagnosis.groups_found > 0 => {
            "none is in CLOSE_WAIT for longer than a second".to_owned()
        }
        (0, 0) => "no socket is in CLOSE_WAIT".to_owned(),
        (0, elsewhere) => format!("no socket is in CLOSE_WAIT ({} elsewhere)", are(elsewhere)),
        (some, _) => format!(
            "{} in CLOSE_WAIT, none for longer than a second",
            counted(some, "socket")
        ),
    }];
    all.push("no MPTCP connection stays in CLOSE_WAIT".to_owned());
    if diagnosis.listeners.is_some() {
        all.push("no listener is in trouble".to_owned());
    }
    if diagnosis.destinations.is_some() {
        all.push("no destination runs out of local ports".to_owned());
    }
    if diagnosis.unanswered.is_some() {
        all.push(match diagnosis.too_few {
            0 => format!("no peer is waited for in {WAITING}"),
            some => format!(
                "no peer is waited for in {WAITING} but by {} that are closed already, too few to \
                 matter",
                counted(some, "socket")
            ),
        });
    }
    all.join("; ")
}

fn not_examined(diagnosis: &Diagnosis) -> String {
    let mut all = Vec::new();
    if diagnosis.listeners.is_none() {
        all.push("listeners, which cannot be told here");
    }
    match (diagnosis.destinations.is_some(), diagnosis.filter.pid) {
        (true, _) => {}
        (false, Some(_)) => all.push("local ports, which are not known by process"),
        (false, None) => all.push("local ports, which cannot be told here"),
    }
    if diagnosis.unanswered.is_none() {
        all.push("peers that do not answer, which cannot be told here");
    }
    all.push("idle connections whose peers are gone, which look like any other");
    all.join("; ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        collect::{
            close_wait::{Report, ReportGroup, mptcp::tests::mptcp},
            listeners::ListeningReport,
            outgoing::{ConnectionsReport, report::tests::destination},
            unanswered::{UnansweredState, report::tests::unanswered},
        },
        diagnosis::{
            Filter,
            compare::tests::{group, report},
            namespace_paths::tests::paths,
            write_text,
        },
    };

    fn diagnosis(filter: &Filter, found: Report, connections: ConnectionsReport) -> Diagnosis {
        let listening = ListeningReport {
            listeners: Vec::new(),
        };
        Diagnosis::new(None, found, filter, true, &paths())
            .with_listeners(listening, filter, &paths())
            .with_connections(None, connections, filter, &paths())
    }

    fn text(diagnosis: &Diagnosis) -> String {
        let mut text = Vec::new();
        write_text(&mut text, diagnosis).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn all() -> Filter {
        Filter {
            limit: 20,
            ..Filter::default()
        }
    }

    #[test]
    fn it_is_said_what_was_looked_at_and_what_was_not() {
        let passable = ConnectionsReport {
            destinations: vec![destination(100, 50, 0)],
            unanswered: vec![unanswered(UnansweredState::FinWait1, 3)],
        };
        assert_eq!(
            text(&diagnosis(&all(), report(Vec::new()), passable)),
            "nothing wrong: no socket is in CLOSE_WAIT; no MPTCP connection stays in CLOSE_WAIT; no listener is \
             in trouble; no destination \
             runs out of local ports; no peer is waited for in SYN_SENT, ESTABLISHED, FIN_WAIT1, \
             FIN_WAIT2, CLOSING or LAST_ACK but by 3 sockets that are closed already, too few to \
             matter\n\
             Not looked at: idle connections whose peers are gone, which look like any other.\n"
        );
        let blind = Diagnosis::new(None, report(Vec::new()), &all(), true, &paths());
        assert_eq!(
            text(&blind),
            "nothing wrong: no socket is in CLOSE_WAIT; no MPTCP connection stays in CLOSE_WAIT\n\
             Not looked at: listeners, which cannot be told here; local ports, which cannot be told \
             here; peers that do not answer, which cannot be told here; idle connections whose peers \
             are gone, which look like any other.\n"
        );
    }

    #[test]
    fn what_matches_nothing_is_not_called_in_order() {
        let with = |pid, port| Filter { pid, port, ..all() };
        let shown = |filter| {
            let found = report(vec![group(1, 80, 5)]);
            diagnosis(&filter, found, ConnectionsReport::default())
        };
        let nobody = Diagnosis {
            process_exists: Some(false),
            ..shown(with(Some(99), None))
        };
        assert_eq!(
            text(&nobody),
            "nothing matches: no process has the number 99\n"
        );
        let elsewhere = text(&shown(with(None, Some(81))));
        assert!(
            elsewhere.starts_with("nothing matches --port 81: "),
            "{elsewhere}"
        );
        let here = text(&shown(with(Some(1), Some(80))));
        assert!(here.starts_with("CLOSE_WAIT: 5 sockets"), "{here}");
    }

    #[test]
    fn what_the_limit_hides_is_not_called_in_order() {
        let none = Filter::default();
        let hidden = diagnosis(
            &none,
            report(vec![group(1, 80, 5)]),
            ConnectionsReport::default(),
        );
        assert_eq!(
            text(&hidden),
            "nothing is shown, because --limit is 0: there is 1 thing to show\n"
        );
        let silent = ConnectionsReport {
            destinations: Vec::new(),
            unanswered: vec![unanswered(UnansweredState::SynSent, 300)],
        };
        let hidden = text(&diagnosis(&none, report(Vec::new()), silent));
        assert!(hidden.starts_with("nothing is shown"), "{hidden}");
    }

    fn any_group() -> impl Strategy<Value = ReportGroup> {
        (1..4_u32, 79..82_u16, 1..50_u64, 0.0..3.0_f64, 0..2_u64).prop_map(
            |(pid, port, sockets, oldest_age_seconds, age_lower_bound_sockets)| ReportGroup {
                oldest_age_seconds,
                age_lower_bound_sockets,
                ..group(pid, port, sockets)
            },
        )
    }

    fn any_waiting() -> impl Strategy<Value = (UnansweredState, u64)> {
        let states = vec![
            UnansweredState::SynSent,
            UnansweredState::Established,
            UnansweredState::FinWait1,
            UnansweredState::FinWait2,
            UnansweredState::LastAck,
        ];
        (prop::sample::select(states), 1..40_u64)
    }

    proptest! {
        #[test]
        fn nothing_is_called_in_order_that_is_older_than_its_threshold(
            groups in prop::collection::vec(any_group(), 0..4),
            waiting in prop::collection::vec(any_waiting(), 0..4),
            closed in prop::collection::vec((1..4_u32, 79..82_u16, 0.0..3.0_f64), 0..3),
            pid in prop::option::of(1..5_u32),
            port in prop::option::of(79..83_u16),
            limit in 0..4_usize,
        ) {
            let filter = Filter { pid, port, limit };
            let connections = ConnectionsReport {
                destinations: Vec::new(),
                unanswered: waiting
                    .iter()
                    .map(|&(state, sockets)| unanswered(state, sockets))
                    .collect(),
            };
            let is_old = |group: &ReportGroup| {
                group.oldest_age_seconds >= 1.0 || group.age_lower_bound_sockets > 0
            };
            let concerns = |group: &&ReportGroup| {
                let pids = [group.process.as_ref().unwrap().pid, group.shared_with[0]];
                pid.is_none_or(|pid| pids.contains(&pid)) && port.is_none_or(|port| group.port == port)
            };
            let any_old = groups.iter().filter(concerns).any(is_old);
            // The peers' port is none of these, and nobody is known to hold them.
            let any_silent = pid.is_none()
                && port.is_none()
                && waiting.iter().any(|&(state, sockets)| state.has_process() || sockets >= 16);
            let any_mptcp = closed.iter().any(|&(holder, at, age)| {
                age >= 1.0
                    && pid.is_none_or(|pid| pid == holder)
                    && port.is_none_or(|port| port == at)
            });
            let mut found = report(groups.clone());
            found.mptcp = closed
                .iter()
                .map(|&(pid, port, age)| mptcp(pid, port, age))
                .collect();
            let text = text(&diagnosis(&filter, found, connections));
            prop_assert!(
                !(text.contains("nothing wrong") && (any_old || any_silent || any_mptcp)),
                "{}",
                text
            );
        }
    }
}
