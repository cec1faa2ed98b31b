//! All connections: who is let in, and who has to go for it.
//!
//! One task accepts, and alone knows which connections there are. At the limit the one goes that
//! has been idle for longest, of those whose source address has more than an equal share: whoever
//! holds few is not pushed out by whoever holds many. A source address that has half of all makes
//! room for its next one itself.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{Id, JoinSet},
    time::{Duration, Instant},
};
use tracing::{debug, error, warn};

use super::{
    activity::Activity,
    connection::{self, Serving},
    counters::Dropped,
    source::Source,
};
use crate::host::memory;

/// How long open connections may take to end when the server stops.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait when the kernel has no descriptor or no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// So many connections take memory that is worth giving back.
const MANY: usize = 64;
/// How often at most it is said that connections have to go, and that none can be accepted.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// Accepts and serves until `serving` says that it is to stop.
pub(super) async fn run(
    listeners: Vec<TcpListener>,
    serving: Serving,
    mut too_much: mpsc::UnboundedReceiver<Instant>,
) {
    let mut connections = Connections {
        open: HashMap::new(),
        by_source: HashMap::new(),
        peak: 0,
        tasks: JoinSet::new(),
        said: None,
        said_why: None,
        serving,
    };
    let mut stopped = connections.serving.stopped.clone();
    let mut turn = 0;
    let mut paused: Option<Instant> = None;
    loop {
        let pause_ends = paused.unwrap_or_else(Instant::now);
        tokio::select! {
            () = connection::is_to_stop(&mut stopped) => break,
            Some(ended) = connections.tasks.join_next_with_id() => connections.ended(ended),
            Some(before) = too_much.recv() => connections.cut_answers(before),
            () = tokio::time::sleep_until(pause_ends), if paused.is_some() => paused = None,
            accepted = accept(&listeners, &mut turn), if paused.is_none() => match accepted {
                Ok((stream, address)) => connections.add(stream, address),
                Err(error) if is_of_client(&error) => {
                    debug!(%error, "a connection was not accepted");
                    connections.serving.counters.accept_failed();
                }
                Err(error) => {
                    connections.cannot_accept(&error);
                    paused = Some(Instant::now() + ACCEPT_PAUSE);
                }
            },
        }
    }
    drop(listeners);
    let mut tasks = connections.tasks;
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_PATIENCE, all).await.is_err() {
        warn!("connections that did not end in time are dropped");
    }
}

/// The next connection, of all listeners in turn: one that is flooded leaves the others theirs.
async fn accept(
    listeners: &[TcpListener],
    turn: &mut usize,
) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        for _ in listeners {
            *turn = (*turn + 1) % listeners.len();
            let accepted = listeners[*turn].poll_accept(context);
            if accepted.is_ready() {
                return accepted;
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether that is the fault of one client, who has gone already, or of the way to it. All else may
/// last.
fn is_of_client(error: &io::Error) -> bool {
    use rustix::io::Errno;

    let errno = Errno::from_io_error(error);
    [
        Errno::CONNABORTED,
        Errno::PROTO,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NONET,
        Errno::NOPROTOOPT,
    ]
    .into_iter()
    .any(|of_client| errno == Some(of_client))
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;

    let errno = Errno::from_io_error(error);
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .into_iter()
        .any(|shortage| errno == Some(shortage))
}

struct Connections {
    open: HashMap<Id, Open>,
    /// How many of them each source has; none of those that have none.
    by_source: HashMap<Source, usize>,
    /// The most there were since memory was last given back.
    peak: usize,
    tasks: JoinSet<()>,
    /// When it was last said that connections have to go.
    said: Option<Instant>,
    /// When it was last said that none can be accepted.
    said_why: Option<Instant>,
    serving: Serving,
}

struct Open {
    source: Source,
    activity: Arc<Activity>,
}

impl Connections {
    fn add(&mut self, stream: TcpStream, address: SocketAddr) {
        let source = Source::of(address.ip());
        let limits = self.serving.limits;
        self.serving.counters.accepted();
        if self.count_of(source) >= (limits.connections / 2).max(1) {
            let of_source = self.open.iter().filter(|(_, open)| open.source == source);
            self.cut(longest_idle(of_source), Dropped::SourceLimit);
        } else if self.open.len() >= limits.connections {
            self.cut(self.to_go(), Dropped::Limit);
        }
        let activity = Activity::begin(limits);
        let task = connection::serve(self.serving.clone(), stream, source, Arc::clone(&activity));
        let id = self.tasks.spawn(task).id();
        self.open.insert(id, Open { source, activity });
        *self.by_source.entry(source).or_default() += 1;
        self.peak = self.peak.max(self.open.len());
    }

    fn count_of(&self, source: Source) -> usize {
        self.by_source.get(&source).copied().unwrap_or(0)
    }

    fn remove(&mut self, id: Id) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Entry::Occupied(mut count) = self.by_source.entry(open.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(open)
    }

    /// Who makes room: the longest idle one of those whose source has more than an equal share.
    fn to_go(&self) -> Option<Id> {
        let share = self.open.len().checked_div(self.by_source.len())?;
        let has_more = |open: &Open| self.count_of(open.source) >= share;
        longest_idle(self.open.iter().filter(|(_, open)| has_more(open)))
    }

    fn cut(&mut self, id: Option<Id>, why: Dropped) {
        let Some(open) = id.and_then(|id| self.remove(id)) else {
            return;
        };
        open.activity.cut(why);
        if is_to_be_said(&mut self.said) {
            warn!(
                ?why,
                connections = self.open.len(),
                "connections are cut to keep within the limits of the HTTP server (see \
                 tcpstate_http_connections_dropped_total)"
            );
        }
    }

    /// Ends the connections of those who asked before `before` and have not read their answers.
    fn cut_answers(&mut self, before: Instant) {
        let late: Vec<Id> = self
            .open
            .iter()
            .filter(|(_, open)| {
                open.activity
                    .answering_since()
                    .is_some_and(|since| since < before)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.cut(Some(id), Dropped::UnreadBytes);
        }
    }

    fn cannot_accept(&mut self, error: &io::Error) {
        self.serving.counters.accept_failed();
        if is_to_be_said(&mut self.said_why) {
            warn!(%error, "cannot accept connections");
        }
        if is_shortage(error) {
            self.cut(self.to_go(), Dropped::Descriptors);
        }
    }

    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                error!(%error, "serving a connection failed");
                self.serving.counters.ended();
                error.id()
            }
        };
        // Absent where it was cut.
        self.remove(id);
        if self.peak >= MANY && self.open.len() < self.peak / 4 {
            memory::give_back();
            self.peak = self.open.len();
        }
    }
}

/// Whether it is [`SAID_EVERY`] since it was said last; it is said then.
fn is_to_be_said(said: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    let is_due = said.is_none_or(|said| now - said >= SAID_EVERY);
    if is_due {
        *said = Some(now);
    }
    is_due
}

/// Who has not sent a request for longest.
fn longest_idle<'a>(open: impl Iterator<Item = (&'a Id, &'a Open)>) -> Option<Id> {
    open.min_by_key(|(_, open)| open.activity.last_useful())
        .map(|(id, _)| *id)
}
