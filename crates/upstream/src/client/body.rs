//! The body of a reply, which drives the connection that it arrives on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::http1::Http1;
use super::origin::Origin;
use super::pool::Pool;

/// Small pieces that have arrived are joined up to this size.
const MAX_JOINED_BYTES: usize = 16 * 1024;
/// At most this many pieces are joined, because other tasks wait in the meantime.
const MAX_JOINED_PIECES: usize = 256;
/// A piece of this size is not copied.
const LARGE_PIECE_BYTES: usize = 4 * 1024;

/// Reads from the connection only while it is polled. Dropping it before its end closes an HTTP/1.1 connection.
pub struct ReplyBody {
    /// `None` after the end.
    incoming: Option<Incoming>,
    link: Option<Link>,
    /// The piece that arrived after those that were joined.
    next: Option<Piece>,
}

/// The HTTP/1.1 connection of a reply, and the pool that gets it afterwards.
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
                    // Trailers have no use here.
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

    /// Joins the small pieces that have arrived. Copying them leaves the connection's buffer free for the next read.
    fn join(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut joined = BytesMut::from(&first[..]);
        drop(first);
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
                    self.next = next;
                    break;
                }
                Poll::Pending => break,
            }
        }
        joined.freeze()
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
            Some(Ok(piece)) if piece.len() < LARGE_PIECE_BYTES => Some(Ok(this.join(piece, cx))),
            piece => piece,
        };
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    /// Not before the connection is back in its pool.
    fn is_end_stream(&self) -> bool {
        self.incoming.is_none() && self.next.is_none()
    }
}
