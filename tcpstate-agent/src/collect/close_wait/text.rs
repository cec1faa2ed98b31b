//! Who keeps sockets in CLOSE_WAIT, for a person.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use super::{DiagnosedGroup, ReportGroup, Role, remedies::write_remedies};
use crate::{
    collect::owners::{ReportCgroup, ReportProcess},
    diagnosis::{
        Diagnosis,
        words::{
            bytes, count, counted, duration, grouped, one_of, pace, shared_with, some_of, terminal,
        },
        write_nothing,
    },
    host::process::RunState,
};

/// Writes which groups there are, and what to do about them.
pub(crate) fn write_close_wait(out: &mut dyn Write, diagnosis: &Diagnosis) -> io::Result<()> {
    if !diagnosis.is_something_wrong() {
        return write_nothing(out, diagnosis);
    }
    writeln!(
        out,
        "CLOSE_WAIT: {} in {}. The peers have closed, these processes have not.",
        counted(diagnosis.sockets_shown, "socket"),
        counted(count(diagnosis.groups.len()), "group"),
    )?;
    let hidden = diagnosis.groups_found - diagnosis.groups.len();
    if hidden > 0 {
        writeln!(
            out,
            "Not shown: {} (--limit).",
            counted(count(hidden), "smaller group")
        )?;
    }
    if !diagnosis.from_agent {
        writeln!(
            out,
            "No agent answers: ages are lower bounds (\"at least\"). Start `tcpstate-agent` to have \
             them exact."
        )?;
    }
    let mut said = Said::default();
    for (number, group) in diagnosis.groups.iter().enumerate() {
        writeln!(out)?;
        write_group(out, number + 1, group, &mut said)?;
    }
    writeln!(out, "\nWHAT TO DO")?;
    write_remedies(out, diagnosis)
}

/// What was printed of which process, so that it is printed once.
#[derive(Default)]
struct Said(BTreeSet<(Option<u32>, String)>);

impl Said {
    /// Whether this line of a process is new.
    fn is_new(&mut self, group: &ReportGroup, line: &str) -> bool {
        let pid = group.process.as_ref().map(|process| process.pid);
        !line.is_empty() && self.0.insert((pid, line.to_owned()))
    }
}

fn write_group(
    out: &mut dyn Write,
    number: usize,
    diagnosed: &DiagnosedGroup,
    said: &mut Said,
) -> io::Result<()> {
    let group = &diagnosed.group;
    writeln!(
        out,
        "{number}. {}, {}: {}{}",
        owner(group),
        service(group),
        counted(group.sockets, "socket"),
        growth(diagnosed),
    )?;
    let mut line = |name: &str, text: &str| writeln!(out, "   {name:<10}{text}");
    line("verdict", diagnosed.verdict.name())?;
    let cause = format!("{}: {}", group.cause.name(), diagnosed.meaning);
    line("cause", &cause)?;
    line("age", &ages(group))?;
    if !group.peers.is_empty() {
        line("peers", &peers(group))?;
    }
    if group.unread_bytes > 0 {
        line("unread", &unread(group))?;
    }
    if group.unacknowledged_bytes > 0 {
        line("unacked", &unacknowledged(group))?;
    }
    let of_process = group.process.as_ref().map(|process| {
        [
            ("state", state(group).to_owned()),
            ("process", process_text(process, diagnosed)),
            ("in", process.place()),
            ("files", files(process, diagnosed).unwrap_or_default()),
            (
                "threads",
                diagnosed
                    .threads_wait
                    .as_ref()
                    .map_or_else(String::new, |wait| {
                        format!("{wait} (all: where --pid {})", process.pid)
                    }),
            ),
        ]
    });
    for (name, text) in of_process.into_iter().flatten() {
        if said.is_new(group, &text) {
            line(name, &text)?;
        }
    }
    if !group.shared_with.is_empty() && !group.facts.is_one_of {
        let shared = shared_with(&group.shared_with, &group.shared_names);
        if said.is_new(group, &shared) {
            line("shared", &shared)?;
        }
    }
    if said.is_new(group, &diagnosed.command) {
        line("look", &diagnosed.command)?;
    }
    Ok(())
}

/// The numbers of all processes of a group that are alike.
pub(super) fn pids(group: &ReportGroup) -> impl Iterator<Item = u32> {
    let first = group.process.as_ref().map(|process| process.pid);
    first.into_iter().chain(group.alike.iter().copied())
}

/// Who has them, or should accept them.
pub(super) fn owner(group: &ReportGroup) -> String {
    if let Some(process) = &group.process {
        let name = terminal(&process.name);
        return match group.alike.len() {
            0 if group.facts.is_one_of => one_of(
                &process.name,
                process.pid,
                &group.shared_with,
                &group.shared_names,
            ),
            0 => format!("{name} (pid {})", process.pid),
            others => {
                let pids: BTreeSet<u32> = pids(group).collect();
                format!(
                    "{name} ({} processes, pid {})",
                    grouped(count(others + 1)),
                    some_of(pids.into_iter())
                )
            }
        };
    }
    let made_in = group.made_in.as_ref();
    match made_in.and_then(ReportCgroup::innermost) {
        Some(name) => format!("no process, made by {}", terminal(&name)),
        None => "no process".to_owned(),
    }
}

fn service(group: &ReportGroup) -> String {
    match (group.role, group.port) {
        (Role::Server, 0) => "server on many ports".to_owned(),
        (Role::Client, 0) => "client of many ports".to_owned(),
        (Role::Server, port) => format!("server on port {port}"),
        (Role::Client, port) => format!("client of port {port}"),
    }
}

fn growth(diagnosed: &DiagnosedGroup) -> String {
    let last_minute = match diagnosed.group.last_minute {
        0 => String::new(),
        sockets => format!(", {} came in the last minute", grouped(sockets)),
    };
    let now = match diagnosed.growth_per_second {
        Some(rate) if rate > 0.0 => format!(", growing by {}", pace(rate)),
        Some(rate) if rate < 0.0 => format!(", shrinking by {}", pace(-rate)),
        Some(_) => ", not growing now".to_owned(),
        None => String::new(),
    };
    now + &last_minute
}

fn ages(group: &ReportGroup) -> String {
    let at_least = if group.oldest_age_is_lower_bound {
        "at least "
    } else {
        ""
    };
    let inexact = match group.age_lower_bound_sockets {
        0 => String::new(),
        sockets => format!(" ({} may be older than known)", grouped(sockets)),
    };
    let descriptor = group
        .oldest_descriptor
        .map_or_else(String::new, |number| format!(" (descriptor {number})"));
    let oldest = duration(group.oldest_age_seconds);
    if group.sockets == 1 {
        return format!("{at_least}{oldest}{descriptor}");
    }
    format!(
        "oldest {at_least}{oldest}{descriptor}, median about {}{inexact}",
        duration(group.median_age_seconds)
    )
}

fn unread(group: &ReportGroup) -> String {
    let facts = &group.facts;
    let each = match (facts.least_unread_bytes, facts.most_unread_bytes) {
        _ if group.sockets == 1 => String::new(),
        (0, 0) => String::new(),
        (least, most) if least == most => format!(", {} on each", bytes(least.into())),
        (least, most) => format!(
            ", {} to {} on each",
            bytes(least.into()),
            bytes(most.into())
        ),
    };
    format!("{}{each}", bytes(group.unread_bytes))
}

fn unacknowledged(group: &ReportGroup) -> String {
    format!(
        "{} that the peers have not acknowledged",
        bytes(group.unacknowledged_bytes)
    )
}

/// Why the process cannot go on.
fn state(group: &ReportGroup) -> &'static str {
    match group.facts.holder.map(|holder| holder.run_state) {
        Some(RunState::Stopped) => "stopped: by a signal or a debugger, or frozen",
        Some(RunState::Uninterruptible) => "sleeps where no signal wakes it (D)",
        Some(RunState::Runs) | None => "",
    }
}

fn peers(group: &ReportGroup) -> String {
    let peers = group.peers.iter();
    let peers: Vec<String> = peers
        .map(|peer| format!("{} ({})", peer.address, grouped(peer.sockets)))
        .collect();
    peers.join(", ")
}

fn process_text(process: &ReportProcess, diagnosed: &DiagnosedGroup) -> String {
    let executable = process.executable.as_ref();
    let executable = executable.map(|path| terminal(&path.to_string_lossy()));
    let command_line = diagnosed.command_line.clone();
    [executable, command_line.map(|line| format!("[{line}]"))]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

fn files(process: &ReportProcess, diagnosed: &DiagnosedGroup) -> Option<String> {
    let open = grouped(process.open_fds?);
    let limit = match process.max_fds {
        Some(limit) => format!("open of {}", grouped(limit)),
        None => "open, no limit".to_owned(),
    };
    let exhausted = diagnosed
        .fds_exhausted_in_seconds
        .map_or_else(String::new, |seconds| {
            if seconds == 0.0 {
                ": none is left".to_owned()
            } else {
                format!(", none left in about {} at this rate", duration(seconds))
            }
        });
    Some(format!("{open} {limit}{exhausted}"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        collect::close_wait::{Cause, Report},
        diagnosis::{
            Filter,
            compare::tests::{group, leaking, report},
            namespace_paths::tests::paths,
            write_text,
        },
    };

    pub(in super::super) fn text(
        first: Option<&Report>,
        second: Report,
        from_agent: bool,
    ) -> String {
        let filter = Filter {
            limit: 10,
            ..Filter::default()
        };
        let first = first.map(|report| (report, Duration::from_secs(2)));
        let mut diagnosis = Diagnosis::new(first, second, &filter, from_agent, &paths());
        for group in &mut diagnosis.groups {
            group.command_line = Some("python3 app.py".to_owned());
            group.threads_wait = group
                .verdict
                .comes_of_waiting()
                .then(|| "2 of 2 threads wait in futex".to_owned());
        }
        let mut text = Vec::new();
        write_text(&mut text, &diagnosis).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_threads_wait_for_is_said_where_that_is_why_sockets_stay() {
        let mut waiting = group(4711, 8080, 900);
        waiting.cause = Cause::FinUnread;
        let text = text(None, report(vec![waiting]), true);
        let line = "   threads   2 of 2 threads wait in futex (all: where --pid 4711)\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_report_is_as_documented() {
        let first = report(vec![group(4711, 8080, 880)]);
        let second = report(vec![leaking(group(4711, 8080, 900), 10.0)]);
        assert_eq!(
            text(Some(&first), second, true),
            "\
CLOSE_WAIT: 900 sockets in 1 group. The peers have closed, these processes have not.

1. python3 (pid 4711), server on port 8080: 900 sockets, growing by 10.0 a second
   verdict   leak
   cause     eof_read: the process has read everything and has not called close()
   age       oldest 1 h 2 min (descriptor 17), median about 1 min 1 s
   peers     10.0.0.7 (900)
   process   /usr/bin/python3.11 [python3 app.py]
   in        unit shop.service
   files     912 open of 1,024, none left in about 11 s at this rate
   shared    with helper (pid 4712)
   look      sudo ss -tanp state close-wait '( sport = :8080 )'

WHAT TO DO
- python3 (pid 4711) leaks descriptors: there is nothing more to read, and it does not close.
  Check every way out of the code that reads from the connection: errors, returns and exceptions without close().
  No descriptor is left in about 11 s; then it can accept and open nothing more.
Only the processes can end these sockets: by close(), or by being restarted.
"
        );
    }

    #[test]
    fn what_is_just_being_closed_is_nothing_wrong() {
        let mut passing = group(1, 80, 1);
        passing.oldest_age_seconds = 0.01;
        let text = text(None, report(vec![passing]), true);
        let expected = "nothing wrong: 1 socket in CLOSE_WAIT, none for longer than a second; ";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn without_an_agent_it_says_what_is_less_good() {
        let text = text(None, report(vec![group(1, 80, 5)]), false);
        assert!(text.contains("No agent answers"), "{text}");
    }

    #[test]
    fn nothing_that_a_process_chose_moves_the_cursor() {
        let mut evil = group(1, 80, 5);
        let process = evil.process.as_mut().unwrap();
        process.name = "a\u{1b}[2Jb\nc".to_owned();
        process.unit = "d\u{202e}e".to_owned();
        process.executable = Some("/f\rg".into());
        let text = text(None, report(vec![evil]), true);
        let strange =
            |letter: char| letter != '\n' && (letter.is_control() || letter == '\u{202e}');
        assert!(!text.contains(strange), "{text:?}");
        assert!(text.contains("b\\nc"), "{text}");
    }

    #[test]
    fn a_backslash_is_no_line_break() {
        let mut strange = group(1, 80, 5);
        strange.process.as_mut().unwrap().name = "b\\nc".to_owned();
        let text = text(None, report(vec![strange]), true);
        assert!(text.contains("b\\\\nc"), "{text}");
    }

    #[test]
    fn what_is_the_same_of_one_process_is_printed_once() {
        let first = group(1, 80, 5);
        let mut other = group(1, 80, 3);
        other.cause = Cause::FinUnread;
        other.process = first.process.clone();
        let text = text(None, report(vec![first, other]), true);
        for line in [
            "   process ",
            "   in ",
            "   files ",
            "   shared ",
            "   look ",
        ] {
            assert_eq!(text.matches(line).count(), 1, "{line}: {text}");
        }
        assert_eq!(text.matches("   cause ").count(), 2, "{text}");
    }

    #[test]
    fn where_it_is_not_known_who_accepts_all_are_named() {
        let mut waiting = group(20, 8026, 17);
        waiting.cause = Cause::Unaccepted;
        waiting.shared_names = vec!["activator".to_owned()];
        waiting.shared_with = vec![10];
        waiting.facts.is_one_of = true;
        let text = text(None, report(vec![waiting]), true);
        let head = "1. one of python3 (pid 20) and activator (pid 10), server on port 8026: 17";
        assert!(text.contains(head), "{text}");
        assert!(!text.contains("   shared "), "{text}");
    }

    #[test]
    fn of_one_socket_there_is_no_median() {
        let text = text(None, report(vec![group(1, 80, 1)]), true);
        assert!(
            text.contains("   age       1 h 2 min (descriptor 17)\n"),
            "{text}"
        );
    }

    #[test]
    fn five_hundred_processes_of_one_connection_each_fit_on_a_screen() {
        let groups = (1..=500).map(|pid| group(pid, 5432, 1)).collect();
        let text = text(None, report(groups), true);
        let head = "1. python3 (500 processes, pid 1, 2, 3, 4, 5 and 495 more), server on port 5432: \
                    500 sockets\n";
        assert!(text.contains(head), "{text}");
        assert!(text.lines().count() < 24, "{text}");
    }

    #[test]
    fn it_is_never_not_growing_with_a_forecast() {
        for rate in [0.001, 0.1, 10.0] {
            let leak = || leaking(group(1, 80, 100), rate);
            let first = report(vec![leak()]);
            let text = text(Some(&first), report(vec![leak()]), true);
            let stays = text.contains("not growing");
            let forecast = text.contains("none left in");
            assert!(stays != forecast, "{rate}: {text}");
        }
    }

    #[test]
    fn where_no_descriptor_is_left_that_is_said_and_no_time() {
        let mut full = group(1, 80, 100);
        full.process.as_mut().unwrap().open_fds = Some(1_024);
        let text = text(None, report(vec![full]), true);
        assert!(
            text.contains("1,024 open of 1,024: none is left\n"),
            "{text}"
        );
        assert!(
            text.contains("  No descriptor is left: it can accept"),
            "{text}"
        );
        assert!(!text.contains(" ms"), "{text}");
    }

    #[test]
    fn processes_of_one_name_and_fault_are_told_once() {
        let groups = (1..=8).map(|pid| group(pid, 80, 5)).collect();
        let text = text(None, report(groups), true);
        assert_eq!(text.matches("leaks descriptors").count(), 1, "{text}");
        let who = "- python3 (pid 1, 2, 3, 4, 5 and 3 more) leaks";
        assert!(text.contains(who), "{text}");
    }
}
