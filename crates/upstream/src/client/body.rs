//! The body of a reply, which drives the connection that it arrives on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::http1::{Broken, Http1};
use super::origin::Origin;
use super::pool::Pool;

/// Reads from the connection only while it is polled. Dropping it before its end closes the connection. `None` after the end.
pub struct ReplyBody(Option<Link>);

/// The connection of a reply, and the pool that gets it afterwards.
pub struct Link {
    pub connection: Box<Http1>,
    pub pool: Arc<Pool>,
    pub origin: Origin,
}

// === impl ReplyBody ===

impl ReplyBody {
    pub fn of(link: Link) -> Self {
        let is_empty = link.connection.is_at_end();
        let mut body = Self(Some(link));
        if is_empty {
            body.end();
        }
        body
    }

    fn end(&mut self) {
        if let Some(Link { connection, pool, origin }) = self.0.take() {
            pool.put(origin, connection);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let Some(link) = &mut self.0 else { return Poll::Ready(None) };
        let data = ready!(link.connection.poll_data(cx));
        match &data {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.0 = None,
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
        self.0.is_none()
    }
}
