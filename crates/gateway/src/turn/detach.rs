//! What becomes of a turn when its client leaves.
//!
//! A turn runs inside the client's connection, so a slow reader slows its upstream and nothing is spawned for it. When
//! the connection goes, the turn that it held is handed to the tracked tasks, where it is finished or wound up: a turn
//! always comes to its own end, and never just disappears.

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

use super::stream::EventStream;

/// Shared by a turn and what detaches it: whether somebody still waits for the turn.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    given_up: Arc<AtomicBool>,
}

/// The turn is to be wound up: the client has left, and nobody waits for the result.
#[derive(Debug, Clone, Copy)]
pub struct GivenUp;

/// How a turn goes on when its client has left.
#[derive(Debug, Clone)]
pub struct Detach {
    pub presence: Presence,
    pub tasks: Tasks,
    /// How long the turn may go on; `None` gives it up at once.
    pub finish_within: Option<Duration>,
}

/// A turn that runs in place while it is polled. Dropped unfinished, it goes on as a task.
pub struct DetachOnDrop<T: 'static> {
    turn: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    detach: Detach,
}

/// The events of a turn that has begun. Dropped unfinished, they are drained by a task.
pub struct DrainOnDrop {
    events: Option<EventStream>,
    detach: Detach,
}

// === impl Presence ===

impl Presence {
    /// Waits for the future unless the turn is given up, or is so while it waits.
    ///
    /// No waker is needed: giving up is always followed by a poll, as the turn changes hands.
    pub async fn or_given_up<F: Future>(&self, future: F) -> Result<F::Output, GivenUp> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.given_up.load(Ordering::Relaxed) {
                return Poll::Ready(Err(GivenUp));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

// === impl Detach ===

impl Detach {
    /// Lets the rest of a turn run on its own.
    fn run<F: Future<Output = ()> + Send + 'static>(&self, rest: F) {
        let Self { presence, finish_within, .. } = self.clone();
        self.tasks.spawn(async move {
            let mut rest = pin!(rest);
            if let Some(limit) = finish_within
                && tokio::time::timeout(limit, &mut rest).await.is_ok()
            {
                return;
            }
            presence.give_up();
            rest.await;
        });
    }
}

// === impl DetachOnDrop ===

impl<T> DetachOnDrop<T> {
    pub fn new(turn: impl Future<Output = T> + Send + 'static, detach: Detach) -> Self {
        Self { turn: Some(Box::pin(turn)), detach }
    }
}

impl<T> Future for DetachOnDrop<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let turn = self.turn.as_mut().expect("not polled again after it was ready");
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
    pub fn new(events: EventStream, detach: Detach) -> Self {
        Self { events: Some(events), detach }
    }

    /// What a reply over HTTP says in its headers.
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
