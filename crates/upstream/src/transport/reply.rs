//! What an upstream answers, whichever way it came.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::socket::SocketBody;
use crate::client;

/// The body of an upstream's reply.
pub enum ReplyBody {
    Http(client::ReplyBody),
    /// The events of one turn, framed as server-sent events.
    Socket(Box<SocketBody>),
    /// It is all there.
    Whole(Full<Bytes>),
}

// === impl ReplyBody ===

impl ReplyBody {
    pub fn empty() -> Self {
        Self::Whole(Full::default())
    }
}

/// The transport's own error.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Socket(body) => body
                .poll_event(cx)
                .map(|event| event.map(|event| Ok(Frame::data(event.map_err(BodyError::from)?)))),
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http(body) => body.is_end_stream(),
            Self::Socket(body) => body.is_over(),
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http(body) => body.size_hint(),
            Self::Socket(_) => SizeHint::default(),
            Self::Whole(body) => body.size_hint(),
        }
    }
}
