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
use std::task::{Context, Poll, ready};
use std::time::Duration;

use antiphon_runtime::Tasks;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::detached::{DetachedTurns, Place};
use super::stream::EventStream;
use crate::body_memory::Share;

/// Shared by a turn and the task that it is detached to: whether the turn is cancelled.
#[derive(Debug, Clone, Default)]
pub struct Cancellation {
    is_cancelled: Arc<AtomicBool>,
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
            if self.is_cancelled.load(Ordering::Relaxed) {
                return Poll::Ready(Err(Cancelled));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }
}

// === impl DetachPolicy ===

impl DetachPolicy {
    /// Runs the rest of a turn in a task.
    fn run<F: Future<Output = ()> + Send + 'static>(&self, rest: F) {
        let (cancellation, place) = (self.cancellation.clone(), self.place());
        self.tasks.spawn(async move {
            let mut rest = pin!(rest);
            if let Some((limit, _place)) = place
                && tokio::time::timeout(limit, &mut rest).await.is_ok()
            {
                return;
            }
            cancellation.cancel();
            rest.await;
        });
    }

    /// How long the turn may continue, and its place among those that do.
    fn place(&self) -> Option<(Duration, Place)> {
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
        let turn = self.turn.as_mut().expect("polled after completion");
        let output = ready!(turn.as_mut().poll(cx));
        self.turn = None;
        Poll::Ready(output)
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
        let Some(events) = self.events.as_mut() else { return Poll::Ready(None) };
        let chunk = ready!(events.poll_chunk(cx));
        if chunk.is_none() {
            self.events = None;
        }
        Poll::Ready(chunk)
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
