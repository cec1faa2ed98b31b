//! The answering side.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc as threads},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use rustix::{net::sockopt::socket_peercred, process::geteuid};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, error, info, warn};

use super::{
    Answer, MAX_ANSWER, PROTOCOL, Question, Request,
    ask::ANSWER_PATIENCE,
    path::{Bound, NotBound},
};
use crate::serve::Subject;

/// A longer request is none.
const MAX_REQUEST: u64 = 4096;
/// So many are listened to at once. The others wait, for as long as one of these may take to ask.
const AT_ONCE: usize = 16;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// To say the whole request, and to take the whole answer.
    pub exchange: Duration,
    /// Until it is looked again whether the path is free, or still leads here.
    pub look: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            exchange: Duration::from_secs(5),
            look: Duration::from_secs(5),
        }
    }
}

/// How long an answer that is being found may keep the agent from ending.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// The listening end. It ends with [`Control::stop`].
#[derive(Debug)]
pub struct Control {
    listening: JoinHandle<()>,
    answering: thread::JoinHandle<()>,
}

/// Those who ask, on their way to the thread that answers.
type Questions = threads::Sender<(Question, oneshot::Sender<Answer>)>;

impl Control {
    /// Listens at `path`, now or when it is free, and answers from `subject`. To be called within
    /// the async runtime.
    pub fn start(
        path: PathBuf,
        subject: Arc<dyn Subject>,
        patience: Patience,
    ) -> anyhow::Result<Self> {
        let (questions, asked) = threads::channel::<(Question, oneshot::Sender<Answer>)>();
        // Answers come from walks of which one is made at a time; more threads would only wait.
        let answering = thread::Builder::new()
            .name("ts-control".to_owned())
            .spawn(move || {
                for (question, answer) in asked {
                    if answer.is_closed() {
                        continue;
                    }
                    let found = subject.answer(question).unwrap_or_else(|| {
                        Answer::Error(
                            "the agent cannot tell who holds sockets (see `check`)".to_owned(),
                        )
                    });
                    // Who asked may have gone meanwhile.
                    drop(answer.send(found));
                }
            })
            .context("cannot start a thread")?;
        Ok(Self {
            listening: tokio::spawn(run(path, questions, patience)),
            answering,
        })
    }

    /// Whether both its parts do their work.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.listening.is_finished() && !self.answering.is_finished()
    }

    /// Ends at once, whoever asks, and takes the socket away. Only an answer that is being found is
    /// waited for, for a while: its walk is under way.
    pub async fn stop(self) {
        self.listening.abort();
        // It says that it was ended, which is no news.
        let _ = self.listening.await;
        // It ends when the last who asks is gone, for which this thread must go on.
        let answering = tokio::task::spawn_blocking(|| self.answering.join());
        match timeout(LAST_ANSWER, answering).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => error!("the control thread panicked"),
            Err(_) => warn!("an answer to a terminal command does not come, and is not waited for"),
        }
    }
}

async fn run(path: PathBuf, questions: Questions, patience: Patience) {
    let mut said = String::new();
    loop {
        match Bound::bind(&path) {
            Ok(bound) => {
                if !said.is_empty() {
                    info!(path = %path.display(), "terminal commands can ask this agent now");
                    said.clear();
                }
                if let Err(error) = serve(&bound, &questions, patience).await {
                    warn!(
                        error = format!("{error:#}"),
                        "terminal commands cannot ask this agent"
                    );
                }
            }
            Err(error) => {
                let what = why(&path.display(), &error);
                // Once, however long it stays so.
                if what != said {
                    warn!(error = what, "terminal commands cannot ask this agent");
                    said = what;
                }
            }
        }
        sleep(patience.look).await;
    }
}

fn why(path: &dyn std::fmt::Display, error: &NotBound) -> String {
    let remedy = match error {
        NotBound::Taken => "; it listens when that one is gone",
        NotBound::NotOurs(_) => " (choose another path with --control.socket)",
        NotBound::Io(_) => "",
    };
    format!("cannot listen on {path}: {error}{remedy}")
}

/// Answers until the path leads elsewhere.
async fn serve(bound: &Bound, questions: &Questions, patience: Patience) -> anyhow::Result<()> {
    let listener = bound.listener.try_clone().context("cannot listen")?;
    let listener = UnixListener::from_std(listener).context("cannot listen")?;
    let mut exchanges = JoinSet::new();
    let mut looks = tokio::time::interval(patience.look);
    loop {
        tokio::select! {
            accepted = listener.accept(), if exchanges.len() < AT_ONCE => match accepted {
                Ok((stream, _)) => {
                    exchanges.spawn(exchange(stream, questions.clone(), patience));
                }
                Err(error) => {
                    debug!(%error, "cannot accept a command");
                    sleep(Duration::from_secs(1)).await;
                }
            },
            Some(_) = exchanges.join_next() => {}
            _ = looks.tick() => if !bound.is_in_place() {
                return Ok(());
            },
        }
    }
}

/// What is asked, or why nothing is.
pub(super) fn read_request(line: &[u8]) -> Result<Question, String> {
    match serde_json::from_slice::<Request>(line) {
        Ok(Request {
            protocol: PROTOCOL,
            question,
        }) => Ok(question),
        Ok(request) => Err(format!(
            "the agent speaks version {PROTOCOL}, not {}",
            request.protocol
        )),
        Err(error) => Err(format!("no such request: {error}")),
    }
}

async fn exchange(stream: UnixStream, questions: Questions, patience: Patience) {
    if let Err(error) = answer(stream, &questions, patience).await {
        debug!(error = format!("{error:#}"), "a command was not answered");
    }
}

async fn answer(
    mut stream: UnixStream,
    questions: &Questions,
    patience: Patience,
) -> anyhow::Result<()> {
    let peer = socket_peercred(&stream)?.uid;
    anyhow::ensure!(
        peer.is_root() || peer == geteuid(),
        "user {peer} may not ask"
    );
    let mut line = Vec::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST));
    timeout(patience.exchange, reader.read_until(b'\n', &mut line))
        .await
        .context("the request did not come in time")??;
    let answer = match read_request(&line) {
        Ok(question) => {
            let (answer, answered) = oneshot::channel();
            questions
                .send((question, answer))
                .context("nobody answers")?;
            timeout(ANSWER_PATIENCE, answered)
                .await
                .context("the answer takes too long")?
                .context("nobody answers")?
        }
        Err(why) => Answer::Error(why),
    };
    let mut text = serde_json::to_string(&answer)?;
    if text.len() as u64 >= MAX_ANSWER {
        text = serde_json::to_string(&Answer::Error("the answer is too long".to_owned()))?;
    }
    text.push('\n');
    timeout(patience.exchange, stream.write_all(text.as_bytes()))
        .await
        .context("the answer was not taken in time")??;
    Ok(())
}
