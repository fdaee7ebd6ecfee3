//! The body of an upstream's reply, whichever transport it came over.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::socket::SocketBody;
use crate::client;
use crate::dialect::{Decoder, Piece, ReplyFormat};

/// The body of an upstream's reply.
pub enum ReplyBody {
    Http(client::ReplyBody),
    /// The events of one turn.
    Socket(Box<SocketBody>),
    /// The complete body.
    Whole(Bytes),
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("{0}")]
    Broken(String),
}

/// The events of a streamed reply, read piece by piece.
pub struct EventReader {
    /// `None` once it has been read to its end, or was cut off.
    body: Option<ReplyBody>,
    decoder: Decoder,
    received_bytes: usize,
}

// === impl ReplyBody ===

impl ReplyBody {
    pub fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    /// Reads a collected reply.
    ///
    /// # Errors
    ///
    /// [`ReadError::TooLarge`] beyond `max_bytes`, else [`ReadError::Broken`] with the transport's text.
    pub async fn collect(self, max_bytes: usize) -> Result<Bytes, ReadError> {
        match self {
            Self::Whole(body) if body.len() > max_bytes => Err(ReadError::TooLarge { max_bytes }),
            Self::Whole(body) => Ok(body),
            Self::Http(body) => match Limited::new(body, max_bytes).collect().await {
                Ok(collected) => Ok(collected.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => Err(ReadError::TooLarge { max_bytes }),
                Err(error) => Err(ReadError::Broken(error.to_string())),
            },
            Self::Socket(_) => Err(ReadError::Broken("it is a stream of events".to_owned())),
        }
    }

    /// The next bytes of a reply that is no stream of events; `None` at its end.
    ///
    /// # Errors
    ///
    /// The transport's text if the reply was cut off.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, String> {
        match poll_fn(|cx| self.poll_piece(cx)).await.transpose()? {
            None => Ok(None),
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::Event(_) | Piece::Whole(_)) => Err("it is a stream of events".to_owned()),
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, String>>> {
        match self {
            Self::Http(body) => loop {
                let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(cx));
                break Poll::Ready(match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                    Some(Ok(Ok(bytes))) => Some(Ok(Piece::Bytes(bytes))),
                    // Trailers.
                    Some(Ok(Err(_))) => continue,
                    Some(Err(error)) => Some(Err(error.to_string())),
                    None => None,
                });
            },
            Self::Socket(body) => body.poll_event(cx).map(|event| event.map(|event| event.map(Piece::Event))),
            Self::Whole(body) if body.is_empty() => Poll::Ready(None),
            Self::Whole(body) => Poll::Ready(Some(Ok(Piece::Bytes(std::mem::take(body))))),
        }
    }
}

// === impl EventReader ===

impl EventReader {
    pub fn new(body: ReplyBody, format: &ReplyFormat, max_event_bytes: usize) -> Self {
        Self { body: Some(body), decoder: format.decoder(max_event_bytes), received_bytes: 0 }
    }

    /// Waits for the next piece of the reply; [`decoder`](Self::decoder) has its events then. `false` at the end. Cancel safe.
    ///
    /// # Errors
    ///
    /// The transport's text if the reply was cut off.
    pub async fn read(&mut self) -> Result<bool, String> {
        let Some(body) = &mut self.body else { return Ok(false) };
        let piece = poll_fn(|cx| body.poll_piece(cx)).await.transpose();
        if !matches!(piece, Ok(Some(_))) {
            self.body = None;
        }
        let Some(piece) = piece? else { return Ok(false) };
        self.received_bytes += match &piece {
            Piece::Bytes(bytes) | Piece::Whole(bytes) => bytes.len(),
            Piece::Event(event) => event.data().map_or(0, |data| data.len()),
        };
        self.decoder.push(piece);
        Ok(true)
    }

    pub fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// How much has been read so far.
    pub fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    /// Reads the rest and drops it, because a connection can be reused only after its reply has been read to the end. `None`
    /// if nothing is left.
    pub fn into_rest(self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut body = self.body?;
        Some(async move { while let Some(Ok(_)) = poll_fn(|cx| body.poll_piece(cx)).await {} })
    }
}
