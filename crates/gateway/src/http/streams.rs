//! The streams of an HTTP/2 connection: those whose client takes no data are reset, and a connection without any is idle.
//!
//! A closed window of flow control holds up a stream and not the connection, so the limits of the connection's writes do
//! not see it.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};

/// How much of a reply is handed over at once: HTTP/2 holds a piece until the client takes it.
const PIECE_BYTES: usize = 16 * 1024;

/// Runs the streams of one connection.
#[derive(Debug, Clone)]
pub struct Streams {
    count: watch::Sender<Count>,
    stall_timeout: Duration,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    opened: u64,
    active: u64,
}

/// Whom a stream waits for: the number of the piece that the client is to take, or 0 while the gateway has none.
#[derive(Debug, Default)]
struct Sending(AtomicU64);

tokio::task_local! {
    static SENDING: Arc<Sending>;
}

/// The body of a reply, in pieces.
struct Pieces {
    body: Body,
    rest: Bytes,
    handed_over: u64,
    sending: Arc<Sending>,
}

/// A stream that counts as active.
struct Active(watch::Sender<Count>);

// === impl Streams ===

impl Streams {
    /// For streams that are reset when their client takes no data for so long.
    pub fn new(stall_timeout: Duration) -> Self {
        Self { count: watch::Sender::default(), stall_timeout }
    }

    /// Resolves when the connection had streams, and then none for so long.
    pub async fn idle(&self, limit: Duration) {
        let mut count = self.count.subscribe();
        loop {
            let Ok(idle) =
                count.wait_for(|count| count.opened > 0 && count.active == 0).await.map(|idle| *idle)
            else {
                return;
            };
            let next = count.wait_for(|count| count.opened > idle.opened);
            if timeout(limit, next).await.is_err() {
                return;
            }
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.count.send_modify(|count| {
            count.opened += 1;
            count.active += 1;
        });
        let active = Active(self.count.clone());
        let sending = Arc::<Sending>::default();
        let stream = until_stalled(stream, Arc::clone(&sending), self.stall_timeout);
        TokioExecutor::new().execute(SENDING.scope(sending, async move {
            stream.await;
            drop(active);
        }));
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.send_modify(|count| count.active -= 1);
    }
}

/// Runs a stream, and drops it, which resets it, if its client takes no data for so long.
async fn until_stalled(stream: impl Future<Output = ()>, sending: Arc<Sending>, limit: Duration) {
    let mut stream = pin!(stream);
    let mut waiting: Option<(u64, Pin<Box<Sleep>>)> = None;
    std::future::poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let piece = sending.0.load(Ordering::Relaxed);
        if piece == 0 {
            waiting = None;
            return Poll::Pending;
        }
        let (_, timer) = match &mut waiting {
            Some(waiting) if waiting.0 == piece => waiting,
            waiting => waiting.insert((piece, Box::pin(sleep(limit)))),
        };
        ready!(timer.as_mut().poll(cx));
        tracing::debug!("stream reset: the client takes no data");
        Poll::Ready(())
    })
    .await;
}

/// The reply in pieces, if it goes over HTTP/2.
pub fn in_pieces(reply: Response) -> Response {
    match SENDING.try_with(Arc::clone) {
        Ok(sending) => {
            reply.map(|body| Body::new(Pieces { body, rest: Bytes::new(), handed_over: 0, sending }))
        }
        Err(_) => reply,
    }
}

// === impl Pieces ===

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            self.sending.0.store(0, Ordering::Relaxed);
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        self.handed_over += 1;
        self.sending.0.store(self.handed_over, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut size) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = size.upper() {
            size.set_upper(upper + rest);
        }
        size.set_lower(size.lower() + rest);
        size
    }
}
