//! Lines on their way to stderr: a thread writes them, so that nobody else waits for who reads.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{
            Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel,
        },
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// So many lines wait. Those that come when no more fit are lost.
const WAITING: usize = 1024;
/// How often to tell what was not.
const EVERY: Duration = Duration::from_mins(1);
/// How often to look whether there is room again for whoever wants to wait.
const LOOK: Duration = Duration::from_millis(10);

/// Takes lines.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    lines: SyncSender<Said>,
    lost: Arc<AtomicU64>,
    /// Of those, how many were told of.
    told: Arc<AtomicU64>,
}

/// What the thread that writes is told.
#[derive(Debug)]
pub(super) enum Said {
    Line(Vec<u8>),
    /// To say when all before it is written.
    Flush(Sender<()>),
}

impl Writer {
    pub(super) fn new() -> (Self, Receiver<Said>) {
        let (lines, said) = sync_channel(WAITING);
        let writer = Self {
            lines,
            lost: Arc::default(),
            told: Arc::default(),
        };
        (writer, said)
    }

    /// Lines that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Says so in the log, if any were lost since the last time.
    pub(super) fn tell_what_is_lost(&self) {
        let lost = self.lost();
        let lines = lost - self.told.swap(lost, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(lines, "lines of this log were lost: nobody read it in time");
        }
    }

    /// Waits until all that was said before is written, for at most so long.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (done, is_done) = channel();
        let mut flush = Said::Flush(done);
        while let Err(refused) = self.lines.try_send(flush) {
            let (TrySendError::Full(again) | TrySendError::Disconnected(again)) = refused;
            if Instant::now() >= deadline {
                return;
            }
            flush = again;
            thread::sleep(LOOK);
        }
        // Whether it was in time or not, there is nothing more to do.
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            writer: self,
            bytes: Vec::new(),
        }
    }
}

/// A line that is being put together. It is on its way when this is dropped.
#[derive(Debug)]
pub(super) struct Line<'a> {
    writer: &'a Writer,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.bytes);
        if !line.is_empty() && self.writer.lines.try_send(Said::Line(line)).is_err() {
            self.writer.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes what is said, and now and then has `tell` say what was not, until nobody says anything any
/// more.
pub(super) fn write_out(said: &Receiver<Said>, to: &mut dyn Write, tell: impl Fn()) {
    let mut told_at = Instant::now();
    loop {
        let until = EVERY.saturating_sub(told_at.elapsed());
        match said.recv_timeout(until) {
            // Where stderr is gone there is nobody to say it to.
            Ok(Said::Line(line)) => drop(to.write_all(&line)),
            // Who no longer waits needs no answer.
            Ok(Said::Flush(done)) => drop(done.send(())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if told_at.elapsed() >= EVERY {
            told_at = Instant::now();
            tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that reads what it is allowed to.
    struct Slow {
        allowed: Receiver<()>,
        read: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.allowed.recv();
            let _ = self.read.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_says_something_waits_for_no_reader_and_what_is_lost_is_counted() {
        let (writer, said) = Writer::new();
        let (allow, allowed) = channel();
        let (read, lines) = channel();
        let writing = thread::spawn(move || {
            write_out(&said, &mut Slow { allowed, read }, || {});
        });
        for number in 0..3 * WAITING {
            // In pieces, and a line all the same.
            let mut line = writer.make_writer();
            line.write_all(b"line ").unwrap();
            writeln!(line, "{number}").unwrap();
        }
        let lost = usize::try_from(writer.lost()).unwrap();
        // One more where the thread had taken one in hand.
        assert!([2 * WAITING, 2 * WAITING - 1].contains(&lost), "{lost}");
        let begun = Instant::now();
        writer.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5));
        drop(allow);
        writer.flush(Duration::from_secs(30));
        drop(writer);
        writing.join().unwrap();
        let lines: Vec<_> = lines.iter().collect();
        assert_eq!(lines.len() + lost, 3 * WAITING);
        assert_eq!(lines[1], b"line 1\n");
    }
}
