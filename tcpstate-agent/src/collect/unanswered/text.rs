//! Which peers do not answer, for a person.

use std::io::{self, Write};

use super::{DiagnosedUnanswered, UnansweredState};
use crate::diagnosis::words::{bytes, counted, duration, shared_with, terminal};

/// Writes which peers do not answer.
pub(crate) fn write_unanswered(
    out: &mut dyn Write,
    groups: &[DiagnosedUnanswered],
) -> io::Result<()> {
    let sockets = groups.iter().map(|group| group.group.sockets).sum();
    writeln!(
        out,
        "NO ANSWER: {} whose peers do not answer, or do not close.",
        counted(sockets, "connection")
    )?;
    for diagnosed in groups {
        let group = &diagnosed.group;
        let peer = match (group.remote_address, group.remote_port) {
            (None, _) => "many peers".to_owned(),
            (Some(peer), 0) => peer.to_string(),
            (Some(peer), port) => std::net::SocketAddr::new(peer, port).to_string(),
        };
        writeln!(
            out,
            "\n! {peer}: {} in {}",
            counted(group.sockets, "socket"),
            group.state.name()
        )?;
        let owner = match &group.process {
            Some(process) => format!("{} (pid {})", terminal(&process.name), process.pid),
            None if group.state.has_process() => "A process that is not known".to_owned(),
            None => "The process".to_owned(),
        };
        writeln!(out, "   {owner} {}.", diagnosed.fault)?;
        let mut line = |name: &str, text: String| writeln!(out, "   {name:<10}{text}");
        if let Some(process) = &group.process {
            let place = process.place();
            if !place.is_empty() {
                line("in", place)?;
            }
        }
        if !group.shared_with.is_empty() {
            line("also", shared_with(&group.shared_with, &group.shared_names))?;
        }
        if group.local_port != 0 {
            line("local", local(diagnosed))?;
        }
        line(
            "silent",
            format!("for {} at most", duration(group.silent_seconds)),
        )?;
        if group.unacknowledged_bytes > 0 {
            line(
                "unacked",
                unacknowledged(group.state, group.unacknowledged_bytes),
            )?;
        }
        line("check", diagnosed.check.to_owned())?;
        line("look", diagnosed.command.clone())?;
    }
    Ok(())
}

/// The local port, and who listens on it.
fn local(diagnosed: &DiagnosedUnanswered) -> String {
    let port = format!("port {}", diagnosed.group.local_port);
    let Some(listener) = &diagnosed.listener else {
        return port;
    };
    let place = listener.place();
    let place = if place.is_empty() {
        String::new()
    } else {
        format!(", {place}")
    };
    let name = terminal(&listener.name);
    format!(
        "{port}, on which {name} (pid {}){place} listens",
        listener.pid
    )
}

fn unacknowledged(state: UnansweredState, number: u64) -> String {
    let what = bytes(number);
    match state {
        UnansweredState::SynSent | UnansweredState::Established | UnansweredState::FinWait2 => {
            format!("{what} not acknowledged")
        }
        _ => format!("{what} not acknowledged, FINs included"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ReportUnanswered, report::tests::unanswered},
        *,
    };
    use crate::diagnosis::{compare::tests::process, namespace_paths::tests::paths};

    #[test]
    fn peers_that_do_not_answer_are_named() {
        let groups = [UnansweredState::Established, UnansweredState::LastAck]
            .map(|state| DiagnosedUnanswered::new(unanswered(state, 20), None, &paths()));
        let mut text = Vec::new();
        write_unanswered(&mut text, &groups).unwrap();
        let text = String::from_utf8(text).unwrap();
        let expected = "\
NO ANSWER: 40 connections whose peers do not answer, or do not close.

! 10.0.0.3:443: 20 sockets in ESTABLISHED
   A process that is not known waits for a peer that is gone, or the way to it: it acknowledges nothing of what is sent.
   silent    for 1 min 15 s at most
   unacked   1.0 KiB not acknowledged
";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("20 sockets in LAST_ACK"), "{text}");
    }

    #[test]
    fn who_waits_is_named() {
        let group = ReportUnanswered {
            process: Some(process(4711, 30)),
            shared_with: vec![4712],
            shared_names: vec!["worker".to_owned()],
            unacknowledged_bytes: 0,
            ..unanswered(UnansweredState::SynSent, 300)
        };
        let mut text = Vec::new();
        let diagnosed = DiagnosedUnanswered::new(group, None, &paths());
        write_unanswered(&mut text, &[diagnosed]).unwrap();
        let text = String::from_utf8(text).unwrap();
        let expected = "\
NO ANSWER: 300 connections whose peers do not answer, or do not close.

! 10.0.0.3:443: 300 sockets in SYN_SENT
   python3 (pid 4711) waits for connections that nobody answers.
   in        unit shop.service
   also      with worker (pid 4712)
   silent    for 1 min 15 s at most
";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("   look      sudo ss -tnpo state syn-sent dst 10.0.0.3\n"),
            "{text}"
        );
    }

    #[test]
    fn of_what_a_service_has_closed_that_service_is_named() {
        let group = ReportUnanswered {
            local_port: 8053,
            ..unanswered(UnansweredState::LastAck, 40)
        };
        let diagnosed = DiagnosedUnanswered::new(group, Some(process(4711, 30)), &paths());
        let mut text = Vec::new();
        write_unanswered(&mut text, &[diagnosed]).unwrap();
        let text = String::from_utf8(text).unwrap();
        let line =
            "   local     port 8053, on which python3 (pid 4711), unit shop.service listens\n";
        assert!(text.contains(line), "{text}");
    }
}
