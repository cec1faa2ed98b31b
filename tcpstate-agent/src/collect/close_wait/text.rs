//! Who keeps sockets in CLOSE_WAIT, for a person.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use super::{DiagnosedGroup, ReportGroup, Role};
use crate::{
    collect::owners::{ReportCgroup, ReportProcess},
    diagnosis::{
        Diagnosis,
        words::{bytes, count, counted, duration, grouped, shared_with, terminal},
    },
};

/// Processes of one name that are numbered in the verdict.
const NAMED: usize = 5;

/// Writes which groups there are, and what to do about them.
pub(crate) fn write_close_wait(out: &mut dyn Write, diagnosis: &Diagnosis) -> io::Result<()> {
    if diagnosis.groups.is_empty() {
        return write_nothing(out, diagnosis);
    }
    if !diagnosis.is_something_wrong() {
        return writeln!(
            out,
            "nothing wrong: {} in CLOSE_WAIT, none for longer than a second",
            counted(diagnosis.sockets_shown, "socket")
        );
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
    for (number, group) in diagnosis.groups.iter().enumerate() {
        writeln!(out)?;
        write_group(out, number + 1, group)?;
    }
    writeln!(out, "\nWHAT TO DO")?;
    write_verdict(out, diagnosis)
}

fn write_nothing(out: &mut dyn Write, diagnosis: &Diagnosis) -> io::Result<()> {
    match diagnosis.sockets {
        0 if diagnosis.listeners.is_some() && diagnosis.destinations.is_some() => writeln!(
            out,
            "nothing wrong: no socket is in CLOSE_WAIT, no listener is in trouble, no destination \
             runs out of ports, and no peer is found silent"
        ),
        0 if diagnosis.listeners.is_some() => writeln!(
            out,
            "nothing wrong: no socket is in CLOSE_WAIT, and no listener is in trouble"
        ),
        0 => writeln!(out, "nothing wrong: no socket is in CLOSE_WAIT"),
        sockets => writeln!(
            out,
            "nothing wrong there; {} in CLOSE_WAIT elsewhere",
            are(sockets)
        ),
    }
}

fn write_group(out: &mut dyn Write, number: usize, diagnosed: &DiagnosedGroup) -> io::Result<()> {
    let group = &diagnosed.group;
    writeln!(
        out,
        "{number}. {}, {}: {}{}",
        owner(group),
        service(group),
        counted(group.sockets, "socket"),
        growth(diagnosed),
    )?;
    let mut line = |name: &str, text: String| writeln!(out, "   {name:<10}{text}");
    line(
        "cause",
        format!("{}: {}", group.cause.name(), diagnosed.meaning),
    )?;
    line("age", ages(group))?;
    if !group.peers.is_empty() {
        line("peers", peers(group))?;
    }
    if group.unread_bytes > 0 {
        line("unread", bytes(group.unread_bytes))?;
    }
    if let Some(process) = &group.process {
        line("process", process_text(process, diagnosed))?;
        let place = place(process);
        if !place.is_empty() {
            line("in", place)?;
        }
        if let Some(files) = files(process, diagnosed) {
            line("files", files)?;
        }
        if let Some(wait) = &diagnosed.threads_wait {
            line(
                "threads",
                format!("{wait} (all: where --pid {})", process.pid),
            )?;
        }
    }
    if !group.shared_with.is_empty() {
        line("shared", shared_with(&group.shared_with))?;
    }
    line("look", diagnosed.command.clone())
}

/// What is wrong, once for all processes of one name and each fault.
fn write_verdict(out: &mut dyn Write, diagnosis: &Diagnosis) -> io::Result<()> {
    let mut said = BTreeSet::new();
    for diagnosed in &diagnosis.groups {
        let group = &diagnosed.group;
        let name = group.process.as_ref().map(|process| &process.name);
        if !said.insert((name, diagnosed.fault)) {
            continue;
        }
        let alike = |other: &&DiagnosedGroup| {
            let other_name = other.group.process.as_ref().map(|process| &process.name);
            (other_name, other.fault) == (name, diagnosed.fault)
        };
        let alike: Vec<&DiagnosedGroup> = diagnosis.groups.iter().filter(alike).collect();
        match name {
            Some(name) => {
                let who = processes(name, &alike);
                writeln!(out, "- {who} {}.", diagnosed.fault)?;
                writeln!(out, "  Check {}.", diagnosed.check)?;
            }
            None => writeln!(
                out,
                "- {} on port {} belong to no descriptor of any process: they are on the way from \
                 one to another (SCM_RIGHTS), registered with io_uring, or the kernel's own.",
                counted(group.sockets, "socket"),
                group.port
            )?,
        }
        let left = alike
            .iter()
            .filter_map(|group| group.fds_exhausted_in_seconds);
        let left = left.fold(f64::INFINITY, f64::min);
        if left < 86_400.0 {
            writeln!(
                out,
                "  No descriptor is left in about {}; then it can accept and open nothing more.",
                duration(left)
            )?;
        }
    }
    writeln!(
        out,
        "Only the processes can end these sockets: by close(), or by being restarted."
    )
}

/// `name (pid 1, 2 and 3 more)`.
fn processes(name: &str, groups: &[&DiagnosedGroup]) -> String {
    let pids: BTreeSet<u32> = groups
        .iter()
        .filter_map(|group| Some(group.group.process.as_ref()?.pid))
        .collect();
    let named: Vec<String> = pids.iter().take(NAMED).map(u32::to_string).collect();
    let more = match pids.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{} (pid {}{more})", terminal(name), named.join(", "))
}

fn owner(group: &ReportGroup) -> String {
    if let Some(process) = &group.process {
        return format!("{} (pid {})", terminal(&process.name), process.pid);
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
        Some(rate) if rate > 0.0 => format!(", growing by {rate:.1} a second"),
        Some(rate) if rate < 0.0 => format!(", shrinking by {:.1} a second", -rate),
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
    format!(
        "oldest {at_least}{}{descriptor}, median about {}{inexact}",
        duration(group.oldest_age_seconds),
        duration(group.median_age_seconds)
    )
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

fn place(process: &ReportProcess) -> String {
    [
        ("unit", &process.unit),
        ("container", &process.container_id),
        ("pod", &process.pod_uid),
    ]
    .into_iter()
    .filter(|(_, name)| !name.is_empty())
    .map(|(kind, name)| format!("{kind} {}", terminal(name)))
    .collect::<Vec<_>>()
    .join(", ")
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
            format!(", none left in about {} at this rate", duration(seconds))
        });
    Some(format!("{open} {limit}{exhausted}"))
}

fn are(number: u64) -> String {
    if number == 1 {
        "1 socket is".to_owned()
    } else {
        format!("{} sockets are", grouped(number))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        collect::close_wait::{Cause, Report, comes_of_waiting},
        diagnosis::{
            Filter,
            compare::tests::{HERE, group, report},
            write_text,
        },
    };

    fn text(first: Option<&Report>, second: Report, from_agent: bool) -> String {
        let filter = Filter {
            limit: 10,
            ..Filter::default()
        };
        let first = first.map(|report| (report, Duration::from_secs(2)));
        let mut diagnosis = Diagnosis::new(first, second, &filter, from_agent, HERE);
        for group in &mut diagnosis.groups {
            group.command_line = Some("python3 app.py".to_owned());
            group.threads_wait = comes_of_waiting(group.group.cause)
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
        let second = report(vec![group(4711, 8080, 900)]);
        assert_eq!(
            text(Some(&first), second, true),
            "\
CLOSE_WAIT: 900 sockets in 1 group. The peers have closed, these processes have not.

1. python3 (pid 4711), server on port 8080: 900 sockets, growing by 10.0 a second
   cause     eof_read: the process has read everything and has not called close()
   age       oldest 1 h 2 min (descriptor 17), median about 1 min 1 s
   peers     10.0.0.7 (900)
   process   /usr/bin/python3.11 [python3 app.py]
   in        unit shop.service
   files     912 open of 1,024, none left in about 11 s at this rate
   shared    with pid 4712
   look      sudo ss -tanp state close-wait '( sport = :8080 )'

WHAT TO DO
- python3 (pid 4711) leaks descriptors: there is nothing more to read, and it does not close.
  Check every way out of the code that reads from the connection: errors, returns and exceptions without close(), responses whose body is never closed.
  No descriptor is left in about 11 s; then it can accept and open nothing more.
Only the processes can end these sockets: by close(), or by being restarted.
"
        );
    }

    #[test]
    fn with_nothing_wrong_it_is_one_line() {
        assert_eq!(
            text(None, report(Vec::new()), true),
            "nothing wrong: no socket is in CLOSE_WAIT\n"
        );
        let mut passing = group(1, 80, 1);
        passing.oldest_age_seconds = 0.01;
        assert_eq!(
            text(None, report(vec![passing]), true),
            "nothing wrong: 1 socket in CLOSE_WAIT, none for longer than a second\n"
        );
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
    fn processes_of_one_name_and_fault_are_told_once() {
        let groups = (1..=8).map(|pid| group(pid, 80, 5)).collect();
        let text = text(None, report(groups), true);
        assert_eq!(text.matches("leaks descriptors").count(), 1, "{text}");
        let who = "- python3 (pid 1, 2, 3, 4, 5 and 3 more) leaks";
        assert!(text.contains(who), "{text}");
    }
}
