//! The body of a reply. Over HTTP/1.1 it drives the connection that it arrives on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::http1::{Broken, Http1};
use super::http2::Joined;
use super::origin::Origin;
use super::pool::Pool;

/// Reads from the connection only while it is polled. Dropping it before its end closes an HTTP/1.1 connection.
pub struct ReplyBody(Source);

enum Source {
    Http1(Link),
    Http2(Joined),
    Ended,
}

/// The HTTP/1.1 connection of a reply, and the pool that gets it afterwards.
pub struct Link {
    pub connection: Box<Http1>,
    pub pool: Arc<Pool>,
    pub origin: Origin,
}

// === impl ReplyBody ===

impl ReplyBody {
    pub fn http1(link: Link) -> Self {
        let is_empty = link.connection.is_at_end();
        let mut body = Self(Source::Http1(link));
        if is_empty {
            body.end();
        }
        body
    }

    pub fn http2(incoming: Incoming) -> Self {
        Self(if incoming.is_end_stream() { Source::Ended } else { Source::Http2(Joined::new(incoming)) })
    }

    fn end(&mut self) {
        if let Source::Http1(Link { connection, pool, origin }) =
            std::mem::replace(&mut self.0, Source::Ended)
        {
            pool.put(origin, connection);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let data = match &mut self.0 {
            Source::Http1(link) => ready!(link.connection.poll_data(cx)),
            Source::Http2(joined) => ready!(joined.poll_data(cx)).map(|data| data.map_err(Broken::from)),
            Source::Ended => None,
        };
        match &data {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.0 = Source::Ended,
            None => self.end(),
        }
        Poll::Ready(data)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.get_mut().poll_data(cx).map(|data| data.map(|data| data.map(Frame::data)))
    }

    /// Not before the connection is back in its pool.
    fn is_end_stream(&self) -> bool {
        matches!(self.0, Source::Ended)
    }
}
