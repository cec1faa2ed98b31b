//! Pages of metrics: each made once for all who ask within a tenth of a second.
//!
//! However many ask, one page is made at a time and ten a second at most. Who asks while one is
//! made that began less than a tenth of a second ago gets that one; who asks later waits for the
//! next. Only those who cause a page to be made, and those who wait for the next, count against
//! `--web.max-requests`: the others cost no reading.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::error;

use super::{counters::Counters, encoding, subject::Subject};

/// How old a reading may be for another to share it.
const SHARED_FOR: Duration = Duration::from_millis(100);

/// A page, in the encodings that were asked for.
#[derive(Debug)]
pub(super) struct Page {
    /// When reading for it began.
    begun: Instant,
    text: String,
    gzip: OnceLock<Vec<u8>>,
}

/// A page in one encoding. It is kept for as long as any of these.
struct Encoded {
    page: Arc<Page>,
    is_gzip: bool,
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPage {
    /// As many as may wait already.
    Busy,
    /// It could not be made. The log says why.
    Failed,
}

type Outcome = Result<Arc<Page>, NoPage>;

/// Makes pages.
pub(super) struct Scrapes {
    subject: Arc<dyn Subject>,
    counters: Arc<Counters>,
    latest: Mutex<Option<Latest>>,
    /// Those who count.
    waiting: AtomicUsize,
    /// So many may; any number where it is 0.
    max_waiting: usize,
    held: Mutex<Held>,
}

/// The page that is being made, or was made last.
#[derive(Clone)]
struct Latest {
    begun: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The pages that somebody still reads, the oldest first.
struct Held {
    pages: VecDeque<Weak<Page>>,
    limit: usize,
    /// Is told the moment before which those asked whose answers have to go.
    too_much: mpsc::UnboundedSender<Instant>,
}

impl Scrapes {
    pub(super) fn new(
        subject: Arc<dyn Subject>,
        counters: Arc<Counters>,
        max_waiting: usize,
        unread_bytes: usize,
        too_much: mpsc::UnboundedSender<Instant>,
    ) -> Self {
        Self {
            subject,
            counters,
            latest: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            max_waiting,
            held: Mutex::new(Held {
                pages: VecDeque::new(),
                limit: unread_bytes,
                too_much,
            }),
        }
    }

    /// How many may wait.
    pub(super) const fn max_waiting(&self) -> usize {
        self.max_waiting
    }

    /// A page whose reading is younger than a tenth of a second.
    pub(super) async fn page(self: &Arc<Self>) -> Outcome {
        let mut place = None;
        loop {
            let (mut latest, is_shared) = self.join(&mut place)?;
            // An error says that the task which makes it has panicked.
            let outcome = latest.outcome.wait_for(Option::is_some).await;
            let outcome = outcome.map_or(Err(NoPage::Failed), |outcome| {
                outcome.clone().unwrap_or(Err(NoPage::Failed))
            });
            if is_shared {
                return outcome;
            }
        }
    }

    /// The page to wait for, and whether it is young enough to be taken.
    fn join<'a>(&'a self, place: &mut Option<Place<'a>>) -> Result<(Latest, bool), NoPage>
    where
        Arc<Self>: Sized,
    {
        let mut latest = lock(&self.latest);
        if let Some(latest) = &*latest {
            if latest.begun.elapsed() < SHARED_FOR {
                return Ok((latest.clone(), true));
            }
            if latest.is_being_made() {
                self.take_place(place)?;
                return Ok((latest.clone(), false));
            }
        }
        self.take_place(place)?;
        let made = self.make();
        *latest = Some(made.clone());
        Ok((made, true))
    }

    fn take_place<'a>(&'a self, place: &mut Option<Place<'a>>) -> Result<(), NoPage> {
        if place.is_some() {
            return Ok(());
        }
        let taken = Place(&self.waiting);
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        *place = Some(taken);
        if self.max_waiting > 0 && before >= self.max_waiting {
            return Err(NoPage::Busy);
        }
        Ok(())
    }

    /// Begins to make a page. It is made whole even if nobody waits for it any more: another one
    /// would have to be begun for the next who asks.
    fn make(&self) -> Latest {
        let begun = Instant::now();
        let (done, outcome) = watch::channel(None);
        let subject = Arc::clone(&self.subject);
        let counters = Arc::clone(&self.counters);
        // Reading blocks for milliseconds, so it is not done on this thread.
        let text = tokio::task::spawn_blocking(move || subject.metrics(&counters.read()));
        tokio::spawn(async move {
            let page = match text.await {
                Ok(Ok(text)) => Ok(Arc::new(Page {
                    begun,
                    text,
                    gzip: OnceLock::new(),
                })),
                Ok(Err(error)) => Err(failed(&*error)),
                Err(error) => Err(failed(&error)),
            };
            done.send_replace(Some(page));
        });
        Latest { begun, outcome }
    }

    /// The bytes of `page`, counted until they are sent, and whether they are compressed.
    pub(super) async fn bytes(&self, page: Arc<Page>, wants_gzip: bool) -> (Bytes, bool) {
        if wants_gzip && page.gzip.get().is_none() {
            let page = Arc::clone(&page);
            // Those who ask for the same page at once wait for one another.
            let compressed = tokio::task::spawn_blocking(move || {
                page.gzip
                    .get_or_init(|| encoding::gzip(page.text.as_bytes()));
            });
            // After a panic there is no compressed page, and the other is sent.
            let _ = compressed.await;
        }
        lock(&self.held).hold(&page);
        let is_gzip = wants_gzip && page.gzip.get().is_some();
        (Bytes::from_owner(Encoded { page, is_gzip }), is_gzip)
    }
}

fn failed(error: &dyn std::error::Error) -> NoPage {
    error!(%error, "cannot render the metrics");
    NoPage::Failed
}

impl Latest {
    fn is_being_made(&self) -> bool {
        self.outcome.borrow().is_none()
    }
}

/// One who counts, until dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Counts `page`. If all that is held is too much, the oldest have to go.
    fn hold(&mut self, page: &Arc<Page>) {
        self.pages.retain(|page| page.strong_count() > 0);
        if self
            .pages
            .iter()
            .any(|held| held.as_ptr() == Arc::as_ptr(page))
        {
            return;
        }
        self.pages.push_back(Arc::downgrade(page));
        let pages: Vec<_> = self.pages.iter().filter_map(Weak::upgrade).collect();
        let mut sum = 0;
        let too_old = pages.iter().rev().position(|page| {
            sum += page.size();
            sum > self.limit
        });
        // The newest one may be as large as it is.
        let too_old = too_old.and_then(|place| pages.iter().rev().nth(place.max(1)));
        if let Some(page) = too_old {
            // The receiver is gone when the server stops.
            let _ = self.too_much.send(page.begun + SHARED_FOR);
        }
    }
}

impl Page {
    fn size(&self) -> usize {
        self.text.len() + self.gzip.get().map_or(0, Vec::len)
    }
}

impl Encoded {
    fn bytes(&self) -> &[u8] {
        match self.page.gzip.get() {
            Some(gzip) if self.is_gzip => gzip,
            _ => self.page.text.as_bytes(),
        }
    }
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
