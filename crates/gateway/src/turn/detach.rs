//! What happens to a turn when its client leaves.
//!
//! A turn runs inside the client's connection, so that a slow reader slows its upstream. When the connection is dropped, the
//! rest of the turn moves to a tracked task, which finishes or cancels it. A turn always ends properly and never just
//! disappears.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use antiphon_runtime::Tasks;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::detached::{DetachPermit, DetachedTurns};
use super::stream::EventStream;
use crate::body_memory::Share;

/// Shared by a turn and the task that it is detached to: whether its client has left, and whether the turn is cancelled.
#[derive(Debug, Clone, Default)]
pub struct Cancellation {
    flags: Arc<Flags>,
}

#[derive(Debug, Default)]
struct Flags {
    has_client_left: AtomicBool,
    is_cancelled: AtomicBool,
}

/// The turn is cancelled: its client has left, and nobody waits for the result.
#[derive(Debug, Clone, Copy)]
pub struct Cancelled;

/// How a turn continues after its client has left.
#[derive(Debug, Clone)]
pub struct DetachPolicy {
    pub cancellation: Cancellation,
    pub tasks: Tasks,
    pub detached: Arc<DetachedTurns>,
    /// Of the tenant whose turn it is.
    pub share: Arc<Share>,
    /// How long the turn may continue; `None` cancels it at once.
    pub finish_timeout: Option<Duration>,
}

/// A turn that runs while it is polled. If it is dropped unfinished, it continues in a task.
pub struct DetachOnDrop<T: 'static> {
    turn: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    detach: DetachPolicy,
}

/// The events of a running turn. If they are dropped unfinished, a task drains them.
pub struct DrainOnDrop {
    events: Option<EventStream>,
    detach: DetachPolicy,
}

// === impl Cancellation ===

impl Cancellation {
    /// Waits for the future, unless the turn is or gets cancelled.
    ///
    /// No waker is needed: whoever cancels the turn polls it next.
    pub async fn or_cancelled<F: Future>(&self, future: F) -> Result<F::Output, Cancelled> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.flags.is_cancelled.load(Ordering::Relaxed) {
                return Poll::Ready(Err(Cancelled));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    pub(super) fn has_client_left(&self) -> bool {
        self.flags.has_client_left.load(Ordering::Relaxed)
    }

    pub(super) fn cancel(&self) {
        self.flags.is_cancelled.store(true, Ordering::Relaxed);
    }
}

// === impl DetachPolicy ===

impl DetachPolicy {
    /// Runs the rest of a turn in a task.
    fn run<F: Future<Output = ()> + Send + 'static>(&self, rest: F) {
        let (cancellation, permit) = (self.cancellation.clone(), self.permit());
        cancellation.flags.has_client_left.store(true, Ordering::Relaxed);
        self.tasks.spawn(async move {
            let mut rest = pin!(rest);
            if let Some((limit, _permit)) = permit
                && tokio::time::timeout(limit, &mut rest).await.is_ok()
            {
                return;
            }
            cancellation.cancel();
            rest.await;
        });
    }

    /// How long the turn may continue, and its permit for that.
    fn permit(&self) -> Option<(Duration, DetachPermit)> {
        let limit = self.finish_timeout?;
        Some((limit, self.detached.try_enter(self.share.tenant())?))
    }
}

// === impl DetachOnDrop ===

impl<T> DetachOnDrop<T> {
    pub fn new(turn: impl Future<Output = T> + Send + 'static, detach: DetachPolicy) -> Self {
        Self { turn: Some(Box::pin(turn)), detach }
    }
}

impl<T> Future for DetachOnDrop<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out meanwhile: a turn that panics is over.
        let mut turn = self.turn.take().expect("polled after completion");
        let polled = turn.as_mut().poll(cx);
        if polled.is_pending() {
            self.turn = Some(turn);
        }
        polled
    }
}

impl<T> Drop for DetachOnDrop<T> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.detach.run(async move { drop(turn.await) });
        }
    }
}

// === impl DrainOnDrop ===

impl DrainOnDrop {
    pub fn new(events: EventStream, detach: DetachPolicy) -> Self {
        Self { events: Some(events), detach }
    }

    /// The headers for a reply over HTTP.
    pub fn take_headers(&mut self) -> HeaderMap {
        self.events.as_mut().map(|events| std::mem::take(&mut events.headers)).unwrap_or_default()
    }

    /// The next chunk, or `None` at the end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        // Taken out meanwhile: a turn that panics is over.
        let Some(mut events) = self.events.take() else { return Poll::Ready(None) };
        let chunk = events.poll_chunk(cx);
        if !matches!(chunk, Poll::Ready(None)) {
            self.events = Some(events);
        }
        chunk
    }
}

impl http_body::Body for DrainOnDrop {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_chunk(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        if let Some(mut events) = self.events.take() {
            self.detach.run(async move { while poll_fn(|cx| events.poll_chunk(cx)).await.is_some() {} });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, resume_unwind};
    use std::sync::atomic::AtomicUsize;

    use futures_util::FutureExt;

    use super::*;
    use crate::body_memory::{BodyMemory, Tenant};

    fn policy(tasks: &Tasks) -> DetachPolicy {
        DetachPolicy {
            cancellation: Cancellation::default(),
            tasks: tasks.clone(),
            detached: Arc::new(DetachedTurns::new(1)),
            share: BodyMemory::new(1, 1).share(Tenant::Operators),
            finish_timeout: Some(Duration::from_secs(60)),
        }
    }

    #[tokio::test]
    async fn a_turn_that_panics_is_over() {
        let (tasks, polls) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let panics = {
            let polls = Arc::clone(&polls);
            move || -> ! {
                polls.fetch_add(1, Ordering::Relaxed);
                resume_unwind(Box::new(()))
            }
        };
        let panics_too = panics.clone();
        let starting = DetachOnDrop::new(poll_fn(move |_| -> Poll<()> { panics() }), policy(&tasks));
        assert!(AssertUnwindSafe(starting).catch_unwind().await.is_err());
        let events = EventStream::from_frames(std::iter::from_fn(move || panics_too()));
        let mut events = DrainOnDrop::new(events, policy(&tasks));
        let next = poll_fn(move |cx| events.poll_chunk(cx));
        assert!(AssertUnwindSafe(next).catch_unwind().await.is_err());
        assert!(tasks.shut_down(Duration::from_secs(60)).await);
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
