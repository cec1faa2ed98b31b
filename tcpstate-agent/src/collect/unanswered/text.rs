//! Which peers do not answer, for a person.

use std::io::{self, Write};

use super::{DiagnosedUnanswered, UnansweredState};
use crate::diagnosis::words::{bytes, counted, duration};

/// Writes which peers do not answer.
pub(crate) fn write_unanswered(
    out: &mut dyn Write,
    groups: &[DiagnosedUnanswered],
) -> io::Result<()> {
    let sockets = groups.iter().map(|group| group.group.sockets).sum();
    writeln!(
        out,
        "NO ANSWER: {} whose peers acknowledge nothing.",
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
        writeln!(out, "   Dead: {}.", diagnosed.fault)?;
        let mut line = |name: &str, text: String| writeln!(out, "   {name:<10}{text}");
        line(
            "silent",
            format!("for {} at most", duration(group.silent_seconds)),
        )?;
        line(
            "unsent",
            unacknowledged(group.state, group.unacknowledged_bytes),
        )?;
        line("check", diagnosed.check.to_owned())?;
        line("look", diagnosed.command.clone())?;
    }
    Ok(())
}

fn unacknowledged(state: UnansweredState, number: u64) -> String {
    let what = bytes(number);
    match state {
        UnansweredState::Established => format!("{what} not acknowledged"),
        _ => format!("{what} not acknowledged, FINs included"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::unanswered, *};
    use crate::diagnosis::compare::tests::HERE;

    #[test]
    fn peers_that_do_not_answer_are_named() {
        let groups = [UnansweredState::Established, UnansweredState::LastAck]
            .map(|state| DiagnosedUnanswered::new(unanswered(state, 20), HERE).unwrap());
        let mut text = Vec::new();
        write_unanswered(&mut text, &groups).unwrap();
        let text = String::from_utf8(text).unwrap();
        let expected = "\
NO ANSWER: 40 connections whose peers acknowledge nothing.

! 10.0.0.3:443: 20 sockets in ESTABLISHED
   Dead: the peer is gone, or the way to it: it acknowledges nothing of what is sent, and the process still waits.
   silent    for 1 min 15 s at most
   unsent    1.0 KiB not acknowledged
";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("20 sockets in LAST_ACK"), "{text}");
    }
}
