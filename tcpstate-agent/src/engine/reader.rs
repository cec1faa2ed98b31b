//! The reader: the one thread that runs the programs that read the kernel's tables.
//!
//! It makes one [`Look`] at a time, in runs of some ten microseconds. What a scrape needs fresh, and
//! looks that are to be made at once, come between two runs of a look that is under way, so that
//! nobody waits for that.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    time::{Duration, Instant},
};

use rustc_hash::FxHashSet;
use rustix::time::{ClockId, clock_gettime};

use super::{
    Message,
    look::{Job, Looked, Wants},
    pulse::Pulse,
};
use crate::{
    collect::listeners::{ListeningSocket, listener_of},
    decode::{KernelNamespace, KernelSocket, object::Object},
    kernel::{Contents, Details, Faults, KernelTables, OwnersReader, ReadError, TableWalk},
};

/// How often to say at least that there is nothing to do.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// What the reader can be told to do.
pub(super) enum Order {
    /// Read what is cheap, now.
    Fresh(Sender<Result<Fresh, ReadError>>),
    /// Look at everything, now.
    Now(Wants, Sender<Result<Box<Looked>, ReadError>>),
    /// Look at everything, and tell the engine when that is done.
    Background(Wants),
}

/// What the kernel keeps as numbers of its own.
#[derive(Debug)]
pub(super) struct Fresh {
    /// Every network namespace.
    pub(super) namespaces: Vec<KernelNamespace>,
    /// The address of the agent's own.
    pub(super) own_net: u64,
    /// Every listening socket, by rising [`ListeningSocket::socket`].
    pub(super) listeners: Vec<ListeningSocket>,
    /// How long it took to read the listeners.
    pub(super) took: Duration,
    /// CPU time that all of it took.
    pub(super) cpu: Duration,
}

/// What the thread works with.
pub(super) struct Reader {
    pub(super) tables: KernelTables,
    pub(super) owners: Option<OwnersReader>,
    /// On which ports something listened at the last look or before, by namespace, as long as they
    /// are bound.
    pub(super) former_listeners: Arc<FxHashSet<(u32, u16)>>,
}

/// Does what comes as orders until nobody can give any more.
pub(super) fn run(
    mut reader: Reader,
    orders: &Receiver<Order>,
    engine: &Sender<Message>,
    pulse: &Pulse,
) {
    let mut waiting: VecDeque<Wants> = VecDeque::new();
    let mut job: Option<Job> = None;
    loop {
        pulse.beat();
        let order = if job.is_some() {
            match orders.try_recv() {
                Ok(order) => Some(order),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return,
            }
        } else {
            match orders.recv_timeout(LONGEST_REST) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        match order {
            // Who no longer waits needs no answer.
            Some(Order::Fresh(answer)) => drop(answer.send(reader.fresh())),
            Some(Order::Now(wants, answer)) => drop(answer.send(reader.look(wants))),
            Some(Order::Background(wants)) => waiting.push_back(wants),
            None => {}
        }
        if job.is_none() {
            job = waiting.pop_front().map(Job::new);
        }
        if let Some(mut running) = job.take() {
            match running.step(&mut reader) {
                Ok(false) => job = Some(running),
                Ok(true) => {
                    if engine.send(Message::Looked(Ok(running.finish()))).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if engine.send(Message::Looked(Err(error))).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl Reader {
    /// A whole look, in one go.
    fn look(&mut self, wants: Wants) -> Result<Box<Looked>, ReadError> {
        let mut job = Job::new(wants);
        while !job.step(self)? {}
        Ok(job.finish())
    }

    fn fresh(&mut self) -> Result<Fresh, ReadError> {
        let before = cpu_time();
        let namespaces = self.tables.namespaces()?;
        let begun = Instant::now();
        // Some missing would look as if they had ended.
        let listeners = match self.listeners(&namespaces) {
            Err(ReadError::Restless(_)) => self.listeners(&namespaces)?,
            listeners => listeners?,
        };
        Ok(Fresh {
            own_net: self.tables.own_net(),
            namespaces,
            listeners,
            took: begun.elapsed(),
            cpu: cpu_time().saturating_sub(before),
        })
    }

    /// Every listening socket of these namespaces.
    pub(super) fn listeners(
        &mut self,
        namespaces: &[KernelNamespace],
    ) -> Result<Vec<ListeningSocket>, ReadError> {
        let by_net: rustc_hash::FxHashMap<u64, u32> = namespaces
            .iter()
            .map(|namespace| (namespace.net, namespace.inode))
            .collect();
        let layout = Arc::clone(self.tables.layout());
        let mut listeners = Vec::new();
        let mut each = |_: u32, object: &Object<'_>| {
            if let Some(socket) = KernelSocket::of(object, &layout.common)
                && let Some(&inode) = by_net.get(&socket.net)
                && let Some(listening) = listener_of(&socket, object, &layout, inode)
            {
                listeners.push(listening);
            }
        };
        let mut faults = Faults::default();
        for table in self.tables.hash_tables(Contents::Listeners, namespaces)? {
            let mut walk = TableWalk::new(table, Details::Usual);
            while !walk.step(&mut self.tables, &mut faults, &mut each)? {}
        }
        if faults.given_up > 0 {
            // Those that are missing would look as if they had been closed.
            return Err(ReadError::Restless(faults.given_up));
        }
        listeners.sort_unstable_by_key(|listening| listening.socket);
        Ok(listeners)
    }
}

/// CPU time that this thread has used.
pub(super) fn cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}
