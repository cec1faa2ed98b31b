//! The asking side: what terminal commands do.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::Context as _;

use super::{Answer, MAX_ANSWER, PROTOCOL, Question, Request};
use crate::collect::{close_wait::Report, listeners::ListeningReport, outgoing::ConnectionsReport};

/// How long the agent may take to take the question.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to answer: it may have to wait for a walk that is under way, and walk
/// itself.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_mins(1);

/// Asks the agent that listens at `path` who keeps sockets in CLOSE_WAIT. `None` where none
/// listens.
pub fn ask_close_wait(path: &Path) -> anyhow::Result<Option<Report>> {
    match ask(path, Question::CloseWait)? {
        None => Ok(None),
        Some(Answer::CloseWait(report)) => Ok(Some(report)),
        Some(_) => anyhow::bail!("the answer is to another question"),
    }
}

/// Asks the agent that listens at `path` what listens on this host. `None` where no agent does.
pub fn ask_listeners(path: &Path) -> anyhow::Result<Option<ListeningReport>> {
    match ask(path, Question::Listeners)? {
        None => Ok(None),
        Some(Answer::Listeners(report)) => Ok(Some(report)),
        Some(_) => anyhow::bail!("the answer is to another question"),
    }
}

/// Asks the agent that listens at `path` where connections go, and which peers do not answer.
/// `None` where no agent listens.
pub fn ask_connections(path: &Path) -> anyhow::Result<Option<ConnectionsReport>> {
    match ask(path, Question::Connections)? {
        None => Ok(None),
        Some(Answer::Connections(report)) => Ok(Some(report)),
        Some(_) => anyhow::bail!("the answer is to another question"),
    }
}

fn ask(path: &Path, question: Question) -> anyhow::Result<Option<Answer>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot connect to {}", path.display()));
        }
    };
    let answer =
        exchange(&stream, question).with_context(|| format!("cannot ask {}", path.display()))?;
    Ok(Some(answer))
}

fn exchange(mut stream: &UnixStream, question: Question) -> anyhow::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_string(&Request {
        protocol: PROTOCOL,
        question,
    })?;
    request.push('\n');
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text)?;
    match serde_json::from_str(&text).context("the answer makes no sense")? {
        Answer::Error(error) => Err(anyhow::anyhow!(error)),
        answer => Ok(answer),
    }
}
