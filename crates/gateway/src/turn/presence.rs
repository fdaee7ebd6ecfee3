//! Whether the client is still there, and what becomes of its turn when it has left.
//!
//! A turn runs inside the client's connection, so a slow reader slows its upstream and nothing is spawned for it. When
//! the connection goes, the turn that it held is handed to the tracked tasks, where it is finished or wound up: a turn
//! always comes to its own end, and never just disappears.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use antiphon_runtime::Tasks;

/// Shared by a turn and the door that holds it.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    given_up: Arc<AtomicBool>,
}

/// The turn is to be wound up: the client has left, and nobody waits for the result.
#[derive(Debug, Clone, Copy)]
pub struct GivenUp;

/// What becomes of a turn whose client leaves.
#[derive(Debug, Clone)]
pub struct Departure {
    pub presence: Presence,
    pub tasks: Tasks,
    /// How long the turn may go on; `None` gives it up at once.
    pub finish_within: Option<Duration>,
}

/// Runs in place while it is polled; when it is dropped unfinished, it goes on as a task.
pub struct UntilFinished<F: Future + Send + 'static> {
    future: Option<Pin<Box<F>>>,
    departure: Departure,
}

/// A stream of bytes as an HTTP body; when it is dropped unfinished, the rest is drained by a task.
pub struct UntilDrained<S: Drain> {
    source: Option<S>,
    departure: Departure,
}

/// A source of bytes that can be read to its end.
pub trait Drain: Send + Unpin + 'static {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
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

// === impl Departure ===

impl Departure {
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

// === impl UntilFinished ===

impl<F: Future + Send + 'static> UntilFinished<F> {
    pub fn new(future: F, departure: Departure) -> Self {
        Self { future: Some(Box::pin(future)), departure }
    }
}

impl<F: Future + Send + 'static> Future for UntilFinished<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.future.as_mut().expect("not polled again after it was ready");
        let output = std::task::ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(output)
    }
}

impl<F: Future + Send + 'static> Drop for UntilFinished<F> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.departure.run(async move { drop(future.await) });
        }
    }
}

// === impl UntilDrained ===

impl<S: Drain> UntilDrained<S> {
    pub fn new(source: S, departure: Departure) -> Self {
        Self { source: Some(source), departure }
    }

    /// The next chunk, or `None` at the end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(source) = self.source.as_mut() else { return Poll::Ready(None) };
        let chunk = std::task::ready!(source.poll_chunk(cx));
        if chunk.is_none() {
            self.source = None;
        }
        Poll::Ready(chunk)
    }
}

impl<S: Drain> http_body::Body for UntilDrained<S> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.poll_chunk(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

impl<S: Drain> Drop for UntilDrained<S> {
    fn drop(&mut self) {
        if let Some(mut source) = self.source.take() {
            self.departure.run(async move { while poll_fn(|cx| source.poll_chunk(cx)).await.is_some() {} });
        }
    }
}
