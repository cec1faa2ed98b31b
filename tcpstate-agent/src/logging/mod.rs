//! The agent's log: never more than somebody can read, and never a reason to stand still.
//!
//! A kind of trouble that comes again and again is told a few times and then counted (`Repeats`).
//! What is told goes to a thread that writes it (`Writer`): whoever says something waits for no
//! reader. What is not written is counted.

mod repeats;
mod writer;

use std::{io, panic, sync::Arc, thread, time::Duration};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, fmt::writer::BoxMakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::{
    repeats::Repeats,
    writer::{Writer, write_out},
};

/// How long the last lines may take to be written when the agent ends.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of a running agent.
#[derive(Clone, Debug)]
pub struct Log {
    writer: Writer,
    repeats: Arc<Repeats>,
}

/// What is not in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlogged {
    /// Messages that were counted and not told, because there had been some of their kind.
    pub repeated: u64,
    /// Lines that nobody read in time.
    pub not_read: u64,
}

/// Starts the log of a command at a terminal: all of it, at once.
pub fn start(level: LevelFilter, is_json: bool) {
    let registry = tracing_subscriber::registry().with(level);
    let lines = lines(BoxMakeWriter::new(io::stderr), is_json);
    // Fails only where a log has been started before, which then stays.
    let _ = registry.with(lines).try_init();
}

/// Starts the log of the agent.
pub fn start_running(level: LevelFilter, is_json: bool) -> io::Result<Log> {
    let (writer, said) = Writer::new();
    let repeats = Arc::new(Repeats::default());
    let log = Log {
        writer: writer.clone(),
        repeats: Arc::clone(&repeats),
    };
    let account = log.clone();
    thread::Builder::new()
        .name("ts-log".to_owned())
        .spawn(move || write_out(&said, &mut io::stderr(), || account.tell_what_is_not_said()))?;
    let lines = lines(BoxMakeWriter::new(writer), is_json);
    // As above.
    let _ = tracing_subscriber::registry()
        .with(level)
        .with(repeats::Few(repeats))
        .with(lines)
        .try_init();
    // It would write to stderr itself, and wait for whoever reads that.
    panic::set_hook(Box::new(|panicked| tracing::error!("{panicked}")));
    Ok(log)
}

fn lines<S>(
    writer: BoxMakeWriter,
    is_json: bool,
) -> Box<dyn tracing_subscriber::Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    if is_json {
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
        layer.with_writer(writer).boxed()
    } else {
        let layer = tracing_logfmt::builder().layer();
        layer.with_writer(writer).boxed()
    }
}

impl Log {
    /// What is not in it so far.
    #[must_use]
    pub fn unlogged(&self) -> Unlogged {
        Unlogged {
            repeated: self.repeats.all(),
            not_read: self.writer.lost(),
        }
    }

    /// Waits until what was said is written, for a moment.
    pub fn flush(&self) {
        self.writer.flush(LAST_LINES);
    }

    fn tell_what_is_not_said(&self) {
        for (kind, times) in self.repeats.take() {
            repeats::tell(&kind, times);
        }
        self.writer.tell_what_is_lost();
    }
}
