//! HTTP/2 connections. Many requests share one, and a task drives each.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Stream;
use super::http1::NoReply;
use super::parts::PartsBody;

/// Small pieces that have arrived are joined up to this size.
const MAX_JOINED_BYTES: usize = 16 * 1024;
/// At most this many pieces are joined, because other tasks wait in the meantime.
const MAX_JOINED_PIECES: usize = 256;
/// A piece of this size is not copied.
const LARGE_PIECE_BYTES: usize = 4 * 1024;

/// The connection ends when its clones are dropped and all replies have ended.
#[derive(Clone)]
pub struct Http2(SendRequest<PartsBody>);

/// The body of a reply, whose small pieces are joined.
pub struct Joined {
    incoming: Incoming,
    /// The piece that arrived after those that were joined; `None` at the end.
    next: Option<Option<Piece>>,
}

type Piece = Result<Bytes, hyper::Error>;

// === impl Http2 ===

impl Http2 {
    pub async fn open(stream: Stream) -> Result<Self, hyper::Error> {
        let executor = TokioExecutor::new();
        let handshake = Builder::new(executor.clone()).timer(TokioTimer::new()).handshake(stream);
        let (mut sender, connection) = handshake.await?;
        executor.execute(async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
        });
        sender.ready().await?;
        Ok(Self(sender))
    }

    pub fn is_alive(&self) -> bool {
        !self.0.is_closed()
    }

    pub async fn send(&mut self, request: Request<PartsBody>) -> Result<Response<Incoming>, NoReply> {
        let reply = self.0.try_send_request(request).await;
        reply.map_err(|error| NoReply {
            is_unsent: error.message().is_some(),
            error: error.into_error().into(),
        })
    }
}

// === impl Joined ===

impl Joined {
    pub fn new(incoming: Incoming) -> Self {
        Self { incoming, next: None }
    }

    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        Poll::Ready(match ready!(self.poll_piece(cx)) {
            Some(Ok(piece)) if piece.len() < LARGE_PIECE_BYTES => Some(Ok(self.join(&piece, cx))),
            piece => piece,
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(next);
        }
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.incoming).poll_frame(cx)) else {
                return Poll::Ready(None);
            };
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(piece)) if !piece.is_empty() => return Poll::Ready(Some(Ok(piece))),
                // Trailers have no use here.
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn join(&mut self, first: &[u8], cx: &mut Context<'_>) -> Bytes {
        let mut joined = BytesMut::from(first);
        for _ in 1..MAX_JOINED_PIECES {
            if joined.len() >= MAX_JOINED_BYTES {
                break;
            }
            match self.poll_piece(cx) {
                Poll::Ready(Some(Ok(piece))) if piece.len() < LARGE_PIECE_BYTES => {
                    joined.reserve(LARGE_PIECE_BYTES);
                    joined.extend_from_slice(&piece);
                }
                Poll::Ready(next) => {
                    self.next = Some(next);
                    break;
                }
                Poll::Pending => break,
            }
        }
        joined.freeze()
    }
}
