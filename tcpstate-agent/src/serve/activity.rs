//! What a connection is doing, until when it may, and when it last did something useful.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body as AnyBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::Notify, time::Instant};

use super::{counters::Dropped as Why, limits::Limits};

/// Shared by the connection, its requests, and who decides which connection has to go.
#[derive(Debug)]
pub(super) struct Activity {
    limits: Limits,
    state: Mutex<State>,
    cut: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Answers that are not handed to the kernel whole.
    answers: u32,
    /// Since when there are any, or none.
    since: Instant,
    /// Requests that came whole.
    has_served: bool,
    /// Some of the next request has come.
    is_receiving: bool,
    /// Several requests share the connection: its bytes tell nothing of them.
    is_multiplexed: bool,
    /// When it was made, or the last request had come whole.
    last_useful: Instant,
    /// Why it has to go.
    cut: Option<Why>,
}

impl Activity {
    pub(super) fn begin(limits: Limits) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            limits,
            state: Mutex::new(State {
                answers: 0,
                since: now,
                has_served: false,
                is_receiving: false,
                is_multiplexed: false,
                last_useful: now,
                cut: None,
            }),
            cut: Notify::new(),
        })
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        let mut state = self.state();
        if !state.is_multiplexed && !state.is_receiving {
            state.is_receiving = true;
            if state.answers == 0 && state.has_served {
                state.since = Instant::now();
            }
        }
    }

    /// From now on its bytes tell nothing of its requests.
    pub(super) fn multiplexes(&self) {
        self.state().is_multiplexed = true;
    }

    /// A request has come whole; its answer is on its way until what this returns is dropped.
    pub(super) fn requested(self: &Arc<Self>) -> Arc<Answering> {
        let now = Instant::now();
        let mut state = self.state();
        if state.answers == 0 {
            state.since = now;
        }
        state.answers += 1;
        state.has_served = true;
        state.is_receiving = false;
        state.last_useful = now;
        drop(state);
        Arc::new(Answering(Arc::clone(self)))
    }

    /// When it has to be done with what it is doing, and what it is then.
    pub(super) fn deadline(&self) -> (Instant, Why) {
        let state = *self.state();
        if state.answers > 0 {
            (state.since + self.limits.answer, Why::AnswerTimeout)
        } else if state.is_receiving || !state.has_served {
            (state.since + self.limits.request, Why::RequestTimeout)
        } else {
            (state.since + self.limits.idle, Why::Idle)
        }
    }

    /// How long an answer may take to be read.
    pub(super) const fn answer_time(&self) -> Duration {
        self.limits.answer
    }

    /// When it was made, or the last request had come whole.
    pub(super) fn last_useful(&self) -> Instant {
        self.state().last_useful
    }

    /// Since when an answer is on its way.
    pub(super) fn answering_since(&self) -> Option<Instant> {
        let state = *self.state();
        (state.answers > 0).then_some(state.since)
    }

    /// Ends the connection.
    pub(super) fn cut(&self, why: Why) {
        self.state().cut.get_or_insert(why);
        self.cut.notify_one();
    }

    /// Why it was ended, if it was.
    pub(super) fn why_cut(&self) -> Option<Why> {
        self.state().cut
    }

    /// Does `work` until it is done, the time for what the connection is doing is over, or somebody
    /// cuts it.
    pub(super) async fn guard<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(self.deadline().0));
        let mut cut = std::pin::pin!(self.cut.notified());
        std::future::poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            if cut.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            // Whatever moves the deadline forward happens while `work` is polled.
            let (deadline, why) = self.deadline();
            if alarm.deadline() != deadline {
                alarm.as_mut().reset(deadline);
            }
            ready!(alarm.as_mut().poll(context));
            self.state().cut.get_or_insert(why);
            Poll::Ready(None)
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answers -= 1;
        if state.answers == 0 {
            state.since = Instant::now();
        }
    }
}

/// A body whose bytes keep the answer on its way: until the last of them is with the kernel.
pub(super) struct Tracked {
    body: AnyBody,
    answering: Arc<Answering>,
}

impl Tracked {
    pub(super) const fn new(body: AnyBody, answering: Arc<Answering>) -> Self {
        Self { body, answering }
    }
}

struct Part {
    bytes: Bytes,
    _answering: Arc<Answering>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    Bytes::from_owner(Part {
                        bytes,
                        _answering: Arc::clone(&self.answering),
                    })
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity() -> Arc<Activity> {
        Activity::begin(Limits {
            connections: 2,
            request: Duration::from_secs(1),
            answer: Duration::from_secs(10),
            idle: Duration::from_secs(100),
            header_bytes: 0,
            unread_bytes: 0,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn each_thing_that_a_connection_does_has_its_own_time() {
        let begun = Instant::now();
        let after = |activity: &Activity| {
            let (deadline, why) = activity.deadline();
            ((deadline - begun).as_secs(), why)
        };
        let activity = activity();
        assert_eq!(after(&activity), (1, Why::RequestTimeout));
        tokio::time::advance(Duration::from_millis(500)).await;
        // A byte now and then is no way to have longer.
        activity.received();
        assert_eq!(after(&activity), (1, Why::RequestTimeout));
        tokio::time::advance(Duration::from_millis(500)).await;
        let answering = activity.requested();
        assert_eq!(after(&activity), (11, Why::AnswerTimeout));
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(answering);
        assert_eq!(after(&activity), (102, Why::Idle));
        tokio::time::advance(Duration::from_secs(1)).await;
        activity.received();
        assert_eq!(after(&activity), (4, Why::RequestTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up() {
        let activity = activity();
        assert_eq!(activity.guard(std::future::pending::<()>()).await, None);
        assert_eq!(activity.why_cut(), Some(Why::RequestTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_cut_is_given_up_at_once() {
        let activity = activity();
        activity.cut(Why::Limit);
        assert_eq!(activity.guard(std::future::pending::<()>()).await, None);
        assert_eq!(activity.why_cut(), Some(Why::Limit));
    }

    #[tokio::test]
    async fn an_answer_is_on_its_way_until_its_last_byte_is_gone() {
        use http_body_util::BodyExt as _;

        let activity = activity();
        let body = Tracked::new(AnyBody::from("text"), activity.requested());
        let bytes = body.collect().await.unwrap().to_bytes();
        assert!(activity.answering_since().is_some());
        drop(bytes);
        assert!(activity.answering_since().is_none());
    }
}
