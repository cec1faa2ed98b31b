//! What is wrong with outgoing connections, for a person.

use std::io::{self, Write};

use super::{DiagnosedDestination, ReportDestination};
use crate::{
    collect::owners::ReportProcess,
    diagnosis::words::{count, duration, grouped, shared_with, terminal},
};

/// Writes for which destinations ports are running out.
pub(crate) fn write_destinations(
    out: &mut dyn Write,
    destinations: &[DiagnosedDestination],
) -> io::Result<()> {
    let (number, verb) = match destinations.len() {
        1 => ("1 destination".to_owned(), "is"),
        more => (format!("{} destinations", grouped(count(more))), "are"),
    };
    writeln!(out, "PORTS: {number} {verb} running out of local ports.")?;
    for diagnosed in destinations {
        let way = &diagnosed.destination;
        let remote = std::net::SocketAddr::new(way.remote_address, way.remote_port);
        writeln!(out, "\n! from {} to {remote}", way.local_address)?;
        writeln!(out, "   There, {}.", diagnosed.fault)?;
        let mut line = |name: &str, text: String| writeln!(out, "   {name:<10}{text}");
        line(
            "ports",
            format!(
                "{} of {} taken, {} of them in TIME_WAIT",
                grouped(way.held.into()),
                grouped(way.ports.into()),
                grouped(way.time_wait.into())
            ),
        )?;
        line("reuse", reuse(diagnosed))?;
        line("left", left(diagnosed))?;
        if let Some(process) = &way.process {
            line("held by", holders(process, way))?;
        }
        line("check", diagnosed.check.to_owned())?;
        // TIME_WAIT has no process, and who opens such connections now has made it.
        line(
            "who opens",
            format!("sudo tcpstate-agent trace --port {}", way.remote_port),
        )?;
        line("look", diagnosed.command.clone())?;
    }
    Ok(())
}

fn holders(process: &ReportProcess, way: &ReportDestination) -> String {
    let name = terminal(&process.name);
    let mut parts = vec![format!("{name} (pid {})", process.pid)];
    parts.extend(Some(process.place()).filter(|place| !place.is_empty()));
    if !way.shared_with.is_empty() {
        parts.push(shared_with(&way.shared_with, &way.shared_names));
    }
    parts.join(", ")
}

fn reuse(diagnosed: &DiagnosedDestination) -> String {
    match diagnosed.destination.reusable {
        0 => "none may be taken over (net.ipv4.tcp_tw_reuse)".to_owned(),
        some => format!(
            "{} in TIME_WAIT may be taken over after a second (net.ipv4.tcp_tw_reuse)",
            grouped(some.into())
        ),
    }
}

fn left(diagnosed: &DiagnosedDestination) -> String {
    let left = diagnosed.destination.left();
    if left == 0 {
        return "none: connect() fails with EADDRNOTAVAIL".to_owned();
    }
    let rate = match (diagnosed.growth_per_second, diagnosed.exhausted_in_seconds) {
        (Some(growth), Some(seconds)) => format!(
            ", {growth:.1} fewer each second: none in about {} at this rate",
            duration(seconds)
        ),
        (Some(_), None) => ", and not getting fewer now".to_owned(),
        (None, _) => String::new(),
    };
    format!("{}{rate}", grouped(left.into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{ConnectionsReport, report::tests::destination},
        *,
    };
    use crate::{
        collect::{
            close_wait::Report,
            listeners::ListeningReport,
            unanswered::{UnansweredState, report::tests::unanswered},
        },
        diagnosis::{
            Diagnosis, Filter,
            compare::tests::{group, process, report},
            namespace_paths::tests::paths,
            write_text,
        },
    };

    fn whole(close_wait: Report, connections: ConnectionsReport) -> String {
        let filter = Filter {
            limit: 10,
            ..Filter::default()
        };
        let listening = ListeningReport {
            listeners: Vec::new(),
        };
        let diagnosis = Diagnosis::new(None, close_wait, &filter, true, &paths())
            .with_listeners(listening, &filter, &paths())
            .with_connections(None, connections, &filter, &paths());
        let mut text = Vec::new();
        write_text(&mut text, &diagnosis).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn only_what_is_wrong_has_a_section() {
        let bad = || ConnectionsReport {
            destinations: vec![destination(900, 50, 0)],
            unanswered: vec![unanswered(UnansweredState::Established, 3)],
        };
        let headings = |text: &str| -> Vec<String> {
            let paragraphs = text.split("\n\n").filter_map(|part| part.split_once(':'));
            let names = paragraphs.map(|(name, _)| name.to_owned());
            names
                .filter(|name| name.starts_with(char::is_uppercase) && *name == name.to_uppercase())
                .collect()
        };
        let text = whole(report(Vec::new()), bad());
        assert_eq!(headings(&text), ["PORTS", "NO ANSWER"], "{text}");
        let text = whole(report(vec![group(1, 80, 5)]), bad());
        assert_eq!(
            headings(&text),
            ["CLOSE_WAIT", "PORTS", "NO ANSWER"],
            "{text}"
        );
        let silent = ConnectionsReport {
            destinations: Vec::new(),
            ..bad()
        };
        let text = whole(report(Vec::new()), silent);
        assert_eq!(headings(&text), ["NO ANSWER"], "{text}");
    }

    #[test]
    fn a_destination_is_described_with_what_is_left() {
        let first = ConnectionsReport {
            destinations: vec![destination(800, 700, 0)],
            unanswered: Vec::new(),
        };
        let first = Some((&first, Duration::from_secs(2)));
        let found = DiagnosedDestination::new(destination(900, 700, 0), first, &paths()).unwrap();
        let mut text = Vec::new();
        write_destinations(&mut text, &[found]).unwrap();
        let text = String::from_utf8(text).unwrap();
        let expected = "\
PORTS: 1 destination is running out of local ports.

! from 10.0.0.1 to 10.0.0.2:443
   There, connections are made and closed faster than TIME_WAIT gives their ports back, which takes a minute.
   ports     900 of 1,000 taken, 700 of them in TIME_WAIT
   reuse     none may be taken over (net.ipv4.tcp_tw_reuse)
   left      100, 50.0 fewer each second: none in about 2.0 s at this rate
";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("   look      sudo ss -tan '( src 10.0.0.1"),
            "{text}"
        );
    }

    #[test]
    fn who_has_the_ports_is_named_and_how_to_see_who_opens_more() {
        let mut way = destination(900, 50, 0);
        way.process = Some(process(4711, 30));
        way.shared_with = vec![4712];
        way.shared_names = vec!["worker".to_owned()];
        let found = DiagnosedDestination::new(way, None, &paths()).unwrap();
        let mut text = Vec::new();
        write_destinations(&mut text, &[found]).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            "   held by   python3 (pid 4711), unit shop.service, with worker (pid 4712)\n",
            "   who opens sudo tcpstate-agent trace --port 443\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn what_is_left_is_said_for_one_look_too() {
        for (held, reusable, expected) in [
            (1000, 0, "none: connect() fails with EADDRNOTAVAIL"),
            (900, 50, "150"),
        ] {
            let found =
                DiagnosedDestination::new(destination(held, 0, reusable), None, &paths()).unwrap();
            assert_eq!(left(&found), expected);
        }
    }
}
