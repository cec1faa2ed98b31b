//! The agent's control socket: where the terminal commands of root ask it.
//!
//! One request a connection: a line of JSON, answered by a line of JSON. Only root and the user
//! that the agent runs as are answered; the kernel says who asks (`SO_PEERCRED`).

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::socket_peercred,
    process::geteuid,
};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::{
    diagnosis::{ConnectionsReport, ListeningReport, Report},
    watch::Watch,
};

/// How long one who asks may take to say what, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent may take to answer: it may have to wait for a walk that is under way, and
/// walk itself.
const ANSWER_PATIENCE: Duration = Duration::from_mins(1);
/// How soon a stop is noticed.
const STOP_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// Longer requests are none.
const MAX_REQUEST: u64 = 4096;
/// Version of requests and answers.
const PROTOCOL: u32 = 1;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// Who keeps sockets in CLOSE_WAIT.
    CloseWait,
    /// What listens.
    Listeners,
    /// Where connections go, and which peers do not answer.
    Connections,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    protocol: u32,
    question: Question,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    CloseWait(Report),
    Listeners(ListeningReport),
    Connections(ConnectionsReport),
    Error(String),
}

/// The listening end. Dropping it removes the socket.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Listens at `path` and answers from `watch`.
    pub fn start(path: &Path, watch: Arc<Watch>) -> anyhow::Result<Self> {
        let listener =
            bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("ts-control".to_owned())
            .spawn(move || serve(&listener, &watch, &stopped))
            .context("cannot start a thread")?;
        Ok(Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
        // Gone already where somebody cleaned up.
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(folder)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is something else than a socket (choose another path with --control.socket)",
                ));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another agent listens there (choose another path with --control.socket)",
                ));
            }
            // What an agent left that was killed.
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    // Until here somebody else may have connected; the kernel's word on who it is decides.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn serve(listener: &UnixListener, watch: &Watch, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut readable = [PollFd::new(listener, PollFlags::IN)];
        if poll(&mut readable, Some(&STOP_INTERVAL)).is_err() {
            // Interrupted.
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = answer(&stream, watch) {
                    debug!(%error, "a command was not answered");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                warn!(%error, "cannot accept a command");
                thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

fn answer(stream: &UnixStream, watch: &Watch) -> anyhow::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = socket_peercred(stream)?.uid;
    anyhow::ensure!(
        peer.is_root() || peer == geteuid(),
        "user {peer} may not ask"
    );
    let mut line = String::new();
    BufReader::new(stream.take(MAX_REQUEST)).read_line(&mut line)?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(Request {
            protocol: PROTOCOL,
            question,
        }) => look(question, watch).unwrap_or_else(|| {
            Answer::Error("the agent cannot tell who holds sockets (see `check`)".to_owned())
        }),
        Ok(request) => Answer::Error(format!(
            "the agent speaks version {PROTOCOL}, not {}",
            request.protocol
        )),
        Err(error) => Answer::Error(format!("no such request: {error}")),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    (&*stream).write_all(text.as_bytes())?;
    Ok(())
}

fn look(question: Question, watch: &Watch) -> Option<Answer> {
    Some(match question {
        Question::CloseWait => Answer::CloseWait(Report::new(&*watch.close_wait()?)),
        Question::Connections => Answer::Connections(ConnectionsReport::new(&watch.connections()?)),
        Question::Listeners => Answer::Listeners(ListeningReport::new(&watch.listeners()?)),
    })
}

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
    stream.read_to_string(&mut text)?;
    match serde_json::from_str(&text).context("the answer makes no sense")? {
        Answer::Error(error) => Err(anyhow::anyhow!(error)),
        answer => Ok(answer),
    }
}
