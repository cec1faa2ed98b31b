//! A number of sockets, held by as many processes as it takes.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    netns::Namespace,
    progress, stop,
    worker::{Task, Worker},
};

/// Two descriptors each; a process may have 20,000 on the machine this is written for.
const PER_WORKER: u64 = 9_500;
const PATIENCE: Duration = Duration::from_mins(3);

/// Workers in one namespace.
pub(crate) struct Crew {
    /// Dropped first: a namespace with sockets in it is not gone.
    workers: Vec<Worker>,
    pub(crate) namespace: Namespace,
    /// How many connections there are; each is two sockets.
    pub(crate) connections: u64,
}

/// What the connections of a crew are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Established,
    /// One side is in CLOSE_WAIT, the other in FIN_WAIT2.
    HalfClosed,
}

impl Crew {
    /// Has `connections` made.
    pub(crate) fn holding(connections: u64, kind: Kind) -> Result<Self> {
        let start = Instant::now();
        let namespace = Namespace::new()?;
        let mut workers = Vec::new();
        let mut left = connections;
        while left > 0 {
            let share = left.min(PER_WORKER);
            left -= share;
            let number = u8::try_from(workers.len() + 1)?;
            let mut task = Task::hold(u32::try_from(share)?).numbered(number);
            if kind == Kind::HalfClosed {
                task = task.half_closed();
            }
            workers.push(Worker::start(&namespace, &task)?);
        }
        let mut waiting: Vec<&Worker> = workers.iter().collect();
        let mut told = Instant::now();
        stop::until(PATIENCE, "all connections are there", || {
            let mut still = Vec::new();
            for worker in waiting.drain(..) {
                if !worker.is_ready()? {
                    still.push(worker);
                }
            }
            waiting = still;
            if told.elapsed() > Duration::from_secs(3) {
                told = Instant::now();
                let made: u64 = workers.iter().map(Worker::made).sum();
                progress(&format!("{made} of {connections} connections"));
            }
            Ok(waiting.is_empty().then_some(()))
        })?;
        progress(&format!(
            "{connections} connections by {} processes in {:.1} s",
            workers.len(),
            start.elapsed().as_secs_f64()
        ));
        Ok(Self {
            workers,
            namespace,
            connections,
        })
    }

    /// One more worker with so many listening sockets.
    pub(crate) fn add_listeners(&mut self, listeners: u32) -> Result<()> {
        let number = u8::try_from(self.workers.len() + 1)?;
        let task = Task::hold(0).numbered(number).listening(listeners);
        let worker = Worker::start(&self.namespace, &task)?;
        worker.wait_until_ready(PATIENCE)?;
        self.workers.push(worker);
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // The kernel takes a while to close a million sockets, and what is measured next should
        // not run beside that.
        let connections = self.connections;
        if connections >= 50_000 {
            progress(&format!("closing {connections} connections"));
        }
        // All at once, not one after the other.
        for worker in &self.workers {
            let _ = worker.kill();
        }
        let end = Instant::now() + PATIENCE;
        for worker in &self.workers {
            let gone = format!("/proc/{}/fd", worker.pid());
            while Path::new(&gone)
                .read_dir()
                .is_ok_and(|mut files| files.next().is_some())
                && Instant::now() < end
            {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
