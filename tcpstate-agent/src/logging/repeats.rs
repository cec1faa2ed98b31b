//! Messages of one kind: the first few are told, then how many there were.

use std::{
    fmt::{self, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// So many of a kind are told: the troubles of several interfaces or namespaces at once, say.
const TOLD: u64 = 5;
/// What the log says of itself is told, since it is said once a minute.
const OWN: &str = "tcpstate_agent::logging";
/// A kind that has not come for so long begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// Lets few messages of each kind through, and counts the others.
#[derive(Debug)]
pub(super) struct Few(pub(super) Arc<Repeats>);

/// How often what was said. A kind is a place in the code, so there are not many.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    kinds: Mutex<FxHashMap<Identifier, Kind>>,
    all: AtomicU64,
}

#[derive(Debug)]
struct Kind {
    /// What the first of them said.
    message: String,
    told: u64,
    not_told: u64,
    last: Instant,
}

impl<S: Subscriber> Layer<S> for Few {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Whoever asks for more wants all of it.
        is_exempt(metadata)
            || self.0.is_told(metadata.callsite(), Instant::now(), || {
                let mut message = Message::default();
                event.record(&mut message);
                message.0
            })
    }
}

fn is_exempt(metadata: &Metadata<'_>) -> bool {
    *metadata.level() > Level::INFO || metadata.target().starts_with(OWN)
}

impl Repeats {
    fn is_told(&self, kind: Identifier, now: Instant, message: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds();
        let kind = kinds.entry(kind).or_insert_with(|| Kind {
            message: message(),
            told: 0,
            not_told: 0,
            last: now,
        });
        if now.saturating_duration_since(kind.last) >= FORGOTTEN_AFTER {
            kind.told = 0;
        }
        kind.last = now;
        let is_told = kind.told < TOLD;
        if is_told {
            kind.told += 1;
        } else {
            kind.not_told += 1;
            self.all.fetch_add(1, Ordering::Relaxed);
        }
        is_told
    }

    /// Messages that were not told, all in all.
    pub(super) fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    /// The kinds of which some were not told since the last time, and how many.
    pub(super) fn take(&self) -> Vec<(String, u64)> {
        let mut kinds = self.kinds();
        let repeated = kinds.values_mut().filter(|kind| kind.not_told > 0);
        repeated
            .map(|kind| (kind.message.clone(), std::mem::take(&mut kind.not_told)))
            .collect()
    }

    fn kinds(&self) -> MutexGuard<'_, FxHashMap<Identifier, Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells how many of a kind were not.
pub(super) fn tell(kind: &str, times: u64) {
    tracing::warn!(times, kind, "the same again and again in the last minute");
}

/// The text of a message, without its fields.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Counts what comes through.
    struct Through(Arc<AtomicU64>);

    impl<S: Subscriber> Layer<S> for Through {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_trouble_that_comes_again_and_again_is_told_a_few_times_and_then_counted() {
        let (repeats, through) = (Arc::new(Repeats::default()), Arc::default());
        let subscriber = tracing_subscriber::registry()
            .with(Few(Arc::clone(&repeats)))
            .with(Through(Arc::clone(&through)));
        with_default(subscriber, || {
            for namespace in 0..1_000 {
                tracing::warn!(target: "elsewhere", namespace, "no counters for a namespace");
            }
            tracing::warn!(target: "elsewhere", "something else");
            assert_eq!(through.load(Ordering::Relaxed), TOLD + 1);
            let told = repeats.take();
            let expected = ("no counters for a namespace".to_owned(), 1_000 - TOLD);
            assert_eq!(told, [expected]);
            // What tells it is told.
            for (kind, times) in told {
                (0..100).for_each(|_| tell(&kind, times));
            }
            assert_eq!(through.load(Ordering::Relaxed), TOLD + 101);
            assert!(repeats.take().is_empty());
            assert_eq!(repeats.all(), 1_000 - TOLD);
        });
    }

    #[test]
    fn what_has_not_come_for_long_is_told_again() {
        let repeats = Repeats::default();
        let kind = || {
            static METADATA: Metadata<'static> = tracing::metadata! {
                name: "test",
                target: "test",
                level: Level::WARN,
                fields: &[],
                callsite: &CALLSITE,
                kind: tracing::metadata::Kind::EVENT,
            };
            static CALLSITE: tracing::callsite::DefaultCallsite =
                tracing::callsite::DefaultCallsite::new(&METADATA);
            METADATA.callsite()
        };
        let now = Instant::now();
        let is_told = |at| repeats.is_told(kind(), at, String::new);
        assert!((0..TOLD).all(|_| is_told(now)));
        assert!(!is_told(now));
        assert!(!is_told(now + FORGOTTEN_AFTER / 2));
        assert!(is_told(now + FORGOTTEN_AFTER * 2));
    }
}
