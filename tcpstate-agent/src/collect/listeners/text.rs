//! What listens, for a person: as a table, and what is wrong with it.

use std::io::{self, Write};

use super::{DiagnosedListener, ListeningReport, ReportListener};
use crate::diagnosis::words::{count, counted, duration, grouped, one_of, shared_with, terminal};

/// Columns of the table, and the last of them.
const COLUMNS: usize = LAST + 1;
const LAST: usize = 10;
/// More peers cannot be told apart well.
const MANY_PEERS: u32 = 200;

/// Writes the table of everything that listens.
pub fn write_table(out: &mut dyn Write, report: &ListeningReport) -> io::Result<()> {
    let header = [
        "ADDRESS",
        "ACCEPT",
        "LIMIT",
        "SYN",
        "LIMIT",
        "RESENT",
        "ESTAB",
        "CLOSE-WAIT",
        "OTHER",
        "DROPS",
        "PROCESS",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(report.listeners.iter().map(row));
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.map(|(place, (cell, width))| match place {
            // The first and the last are words, the others numbers.
            0 => format!("{cell:<width$}"),
            LAST => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(out, "{line}")?;
    }
    let full = report.listeners.iter();
    let full = full.filter(|listener| listener.trouble.is_some()).count();
    let all = counted(count(report.listeners.len()), "listener");
    match full {
        0 => writeln!(out, "\n{all}, none in trouble"),
        some => writeln!(
            out,
            "\n{all}, {} in trouble (marked !): `tcpstate-agent diagnose` tells what to do",
            grouped(count(some))
        ),
    }
}

fn row(listener: &ReportListener) -> [String; COLUMNS] {
    let mark = if listener.trouble.is_some() { "!" } else { " " };
    let sockets = match listener.sockets {
        1 => String::new(),
        sockets => format!(" x{sockets}"),
    };
    let accept = if listener.sockets > 1 && listener.worst_accept_queue > 0 {
        // Which of them is the full one matters more than their sum.
        format!(
            "{} (worst {}/{})",
            listener.accept_queue, listener.worst_accept_queue, listener.worst_accept_queue_limit
        )
    } else {
        listener.accept_queue.to_string()
    };
    let syn = listener.syn_recv;
    let kinds = [
        (syn.deferred, "deferred"),
        (syn.accept_queue_full, "held back"),
    ];
    let kinds: Vec<String> = kinds
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} {kind}"))
        .collect();
    let half_open = match kinds.len() {
        0 => syn.total().to_string(),
        _ => format!("{} ({})", syn.total(), kinds.join(", ")),
    };
    [
        format!("{mark} {}{sockets}", listener.address),
        accept,
        listener.accept_queue_limit.to_string(),
        half_open,
        listener.syn_queue_limit.to_string(),
        listener.syn_recv_resent.to_string(),
        listener.established.to_string(),
        listener.close_wait.to_string(),
        listener.other_states.to_string(),
        listener.drops.to_string(),
        owner(listener),
    ]
}

fn owner(listener: &ReportListener) -> String {
    listener.process.as_ref().map_or_else(
        || "-".to_owned(),
        |process| {
            let place = [&process.unit, &process.container_id];
            let place = place.into_iter().find(|name| !name.is_empty());
            let place = place.map_or_else(String::new, |name| format!(" [{}]", terminal(name)));
            format!("{} ({}){place}", terminal(&process.name), process.pid)
        },
    )
}

/// Writes what is wrong with the listeners that are in trouble, and what to do about it.
pub(crate) fn write_troubles(
    out: &mut dyn Write,
    listeners: &[DiagnosedListener],
) -> io::Result<()> {
    writeln!(
        out,
        "LISTENERS: {} in trouble.",
        counted(count(listeners.len()), "listener")
    )?;
    for diagnosed in listeners {
        let listener = &diagnosed.listener;
        let owner = match &listener.process {
            Some(process) if diagnosed.is_one_of => one_of(
                &process.name,
                process.pid,
                &listener.shared_with,
                &diagnosed.shared_names,
            ),
            Some(_) => owner(listener),
            None => "no process".to_owned(),
        };
        writeln!(out, "\n! {owner}, {}", listener.address)?;
        writeln!(out, "   It {}.", diagnosed.fault)?;
        let mut line = |name: &str, text: String| writeln!(out, "   {name:<10}{text}");
        if !listener.shared_with.is_empty() && !diagnosed.is_one_of {
            let shared = shared_with(&listener.shared_with, &diagnosed.shared_names);
            line("shared", shared)?;
        }
        line("accept", accept_queue(listener))?;
        line("half open", half_open(listener))?;
        if listener.close_wait > 0 {
            line(
                "close_wait",
                format!(
                    " {} whose peers have given up",
                    counted(listener.close_wait, "connection")
                ),
            )?;
        }
        if listener.drops > 0 {
            line(
                "dropped",
                format!("{} since it listens", grouped(listener.drops)),
            )?;
        }
        line("check", diagnosed.check.to_owned())?;
        line("look", diagnosed.command.clone())?;
    }
    Ok(())
}

fn accept_queue(listener: &ReportListener) -> String {
    let all = format!(
        "{} of {} wait to be accepted",
        grouped(listener.accept_queue),
        grouped(listener.accept_queue_limit)
    );
    if listener.sockets == 1 {
        return all;
    }
    format!(
        "{all}, at {} sockets; at the fullest {} of {}",
        grouped(listener.sockets),
        grouped(listener.worst_accept_queue),
        grouped(listener.worst_accept_queue_limit)
    )
}

fn half_open(listener: &ReportListener) -> String {
    let syn = listener.syn_recv;
    let all = format!(
        "{} of {}",
        grouped(syn.total()),
        grouped(listener.syn_queue_limit)
    );
    let peers = match listener.syn_recv_peers {
        peers if peers > MANY_PEERS => format!("more than {MANY_PEERS}"),
        peers => format!("about {peers}"),
    };
    let mut parts = vec![all];
    if syn.total() > 0 {
        parts.push(format!(
            "the SYN-ACK of {} sent again",
            grouped(listener.syn_recv_resent)
        ));
        let oldest = duration(listener.syn_recv_oldest_seconds);
        parts.push(format!("the oldest {oldest} old"));
    }
    if syn.accept_queue_full > 0 {
        let held_back = grouped(syn.accept_queue_full);
        parts.push(format!("{held_back} held back by the full accept queue"));
    }
    if syn.deferred > 0 {
        let deferred = grouped(syn.deferred);
        parts.push(format!(
            "{deferred} wait for data as they should (TCP_DEFER_ACCEPT)"
        ));
    }
    if syn.waiting > 0 {
        parts.push(format!("from {peers} peers"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{flooded, stuck},
        *,
    };
    use crate::{
        collect::close_wait::Report,
        diagnosis::{Diagnosis, Filter, namespace_paths::tests::paths, write_text},
    };

    fn report() -> ListeningReport {
        ListeningReport {
            listeners: vec![stuck(), flooded()],
        }
    }

    #[test]
    fn the_table_is_aligned_and_marks_trouble() {
        let mut quiet = flooded();
        quiet.trouble = None;
        quiet.process = None;
        let report = ListeningReport {
            listeners: vec![stuck(), quiet],
        };
        let mut text = Vec::new();
        write_table(&mut text, &report).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "\
ADDRESS                         ACCEPT  LIMIT              SYN  LIMIT  RESENT  ESTAB  CLOSE-WAIT  OTHER  DROPS  PROCESS
! 0.0.0.0:8080 x2  129 (worst 129/128)    256  3 (2 held back)    256       2    100          29      5     77  python3 (4711) [shop.service]
  [::]:443                           0   4096              900   4096     800      0           0      0      0  -

2 listeners, 1 in trouble (marked !): `tcpstate-agent diagnose` tells what to do
"
        );
    }

    #[test]
    fn diagnose_tells_what_is_wrong_and_what_to_do() {
        let filter = Filter {
            limit: 10,
            ..Filter::default()
        };
        let nothing = Report {
            sockets: 0,
            groups: Vec::new(),
            mptcp: Vec::new(),
        };
        let diagnosis = Diagnosis::new(None, nothing, &filter, true, &paths());
        let diagnosis = diagnosis.with_listeners(report(), &filter, &paths());
        let mut text = Vec::new();
        write_text(&mut text, &diagnosis).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "\
LISTENERS: 2 listeners in trouble.

! python3 (4711) [shop.service], 0.0.0.0:8080
   It does not accept connections: its accept queue is full, and the kernel drops what comes.
   shared    with pid 4712
   accept    129 of 256 wait to be accepted, at 2 sockets; at the fullest 129 of 128
   half open 3 of 256, the SYN-ACK of 2 sent again, the oldest 3.5 s old, 2 held back by the full accept queue, from about 2 peers
   close_wait 29 connections whose peers have given up
   dropped   77 since it listens
   check     what its accepting thread waits for, its limit of workers or connections, and its log for \"too many open files\"
   look      sudo ss -tlnp '( sport = :8080 )'

! no process, [::]:443
   It has many half-open connections from many peers that do not answer: a SYN flood, or its SYN-ACKs or their third ACKs are lost on the way.
   accept    0 of 4,096 wait to be accepted
   half open 900 of 4,096, the SYN-ACK of 800 sent again, the oldest 7.2 s old, from more than 200 peers
   check     that net.ipv4.tcp_syncookies is 1, whether the peers are real (their networks, their number), and the way back to them: routes, firewalls, load balancers
   look      sudo ss -tno state syn-recv '( sport = :443 )'
"
        );
    }
}
