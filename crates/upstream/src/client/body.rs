//! The body of a reply, which drives the connection that it comes over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::http1::Http1;
use super::origin::Origin;
use super::pool::Pool;

/// Small pieces that have come are handed on together, up to this size.
const TOGETHER_BYTES: usize = 16 * 1024;
/// So many of them: other tasks wait meanwhile.
const TOGETHER_PIECES: usize = 256;
/// A piece of this size is handed on as it is.
const LARGE_PIECE_BYTES: usize = 4 * 1024;

/// Nothing is read from the connection unless this is polled. Dropping it before its end closes an HTTP/1.1 connection.
pub struct ReplyBody {
    /// `None` after the end.
    incoming: Option<Incoming>,
    link: Option<Link>,
    /// What came after the pieces that were handed on.
    next: Option<Piece>,
}

/// The HTTP/1.1 connection of a reply, and where it goes afterwards.
pub struct Link {
    pub connection: Box<Http1>,
    pub pool: Arc<Pool>,
    pub origin: Origin,
}

type Piece = Result<Bytes, hyper::Error>;

// === impl ReplyBody ===

impl ReplyBody {
    pub fn new(incoming: Incoming, link: Option<Link>) -> Self {
        let is_empty = incoming.is_end_stream();
        let mut body = Self { incoming: Some(incoming), link, next: None };
        if is_empty {
            body.end();
        }
        body
    }

    fn end(&mut self) {
        self.incoming = None;
        if let Some(Link { connection, pool, origin }) = self.link.take() {
            pool.put(origin, connection);
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(next));
        }
        loop {
            let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
            let frame = match &mut self.link {
                Some(link) => link.connection.poll_frame(incoming, cx),
                None => Pin::new(incoming).poll_frame(cx),
            };
            match ready!(frame) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => return Poll::Ready(Some(Ok(piece))),
                    // Trailers, which nobody asked for.
                    _ => {}
                },
                Some(Err(error)) => {
                    (self.incoming, self.link) = (None, None);
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.end(),
            }
        }
    }

    /// Puts the small pieces that have come together. Copied, they leave the connection's buffer free to be read into.
    fn gather(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut together = BytesMut::from(&first[..]);
        drop(first);
        for _ in 1..TOGETHER_PIECES {
            if together.len() >= TOGETHER_BYTES {
                break;
            }
            match self.poll_piece(cx) {
                Poll::Ready(Some(Ok(piece))) if piece.len() < LARGE_PIECE_BYTES => {
                    together.reserve(LARGE_PIECE_BYTES);
                    together.extend_from_slice(&piece);
                }
                Poll::Ready(next) => {
                    self.next = next;
                    break;
                }
                Poll::Pending => break,
            }
        }
        together.freeze()
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let piece = match ready!(this.poll_piece(cx)) {
            Some(Ok(piece)) if piece.len() < LARGE_PIECE_BYTES => Some(Ok(this.gather(piece, cx))),
            piece => piece,
        };
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    /// Not before the connection has been given back.
    fn is_end_stream(&self) -> bool {
        self.incoming.is_none() && self.next.is_none()
    }
}
