//! Questions that may find no answer: `/proc` waits for memory of the process that is asked about,
//! which its owner may have made stand still, and a file system for a server that is gone.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread,
    time::Duration,
};

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions that wait for ever at once. Beyond that nothing is asked any more.
const STUCK: usize = 8;

static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Takes its place back when it ends.
struct Asking;

impl Drop for Asking {
    fn drop(&mut self) {
        ASKED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer to a question that is asked by a thread of its own. `None` where it does not come in time;
/// the thread is then left alone with it.
pub(crate) fn ask<T: Send + 'static>(
    question: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    let asked = ASKED.fetch_add(1, Ordering::Relaxed);
    let asking = Asking;
    if asked >= STUCK {
        return None;
    }
    let (answer, answered) = channel();
    thread::Builder::new()
        .name("ts-proc".to_owned())
        .spawn(move || {
            let _asking = asking;
            // Who no longer waits needs no answer.
            let _ = answer.send(question());
        })
        .ok()?;
    answered.recv_timeout(PATIENCE).ok()?
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Opening a pipe that nobody writes to waits for ever, as a file system does that does not
    /// answer.
    #[test]
    fn a_file_that_does_not_answer_is_waited_for_in_vain_and_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let begun = Instant::now();
        for _ in 0..STUCK {
            let pipe = pipe.clone();
            let answer = ask(move || {
                let text = fs::read_to_string(pipe);
                text.ok()
            });
            assert_eq!(answer, None);
        }
        assert!(begun.elapsed() >= PATIENCE);
        // From then on nothing is asked.
        assert_eq!(ask(|| Some(1)), None);
        // Whoever opens the other end ends the wait.
        let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        drop(writer);
        while ASKED.load(Ordering::Relaxed) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(ask(|| Some(1)), Some(1));
    }
}
