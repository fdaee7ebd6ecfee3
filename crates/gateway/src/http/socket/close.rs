//! Why and how a connection is closed.

use std::time::Duration;

use antiphon_protocol::frame::OversizedControlFrame;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::connection::Socket;
use super::metered::MessageRejected;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;

/// How long a client may take to reply to the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to discard what a client still sends, so that it reads the error.
const MAX_DRAIN: Duration = Duration::from_secs(20);
/// A connection ended without a close frame.
pub const CLOSE_ABNORMAL: u16 = 1006;
/// A close frame without a code.
const CLOSE_NO_STATUS: u16 = 1005;

#[derive(Debug)]
pub enum CloseReason {
    /// The client is gone.
    ConnectionLost,
    /// The client sent a close frame, with this code.
    Closed(Option<u16>),
    /// The client violated the WebSocket protocol.
    ProtocolError(CloseCode),
    /// A message was rejected before it was read completely.
    MessageRejected(RequestError),
    /// The process stops.
    Shutdown,
    MaxAge(Duration),
}

impl CloseReason {
    pub fn from_error(error: Error, max_bytes: usize) -> Self {
        match error {
            Error::Io(error) => match error.downcast::<MessageRejected>() {
                Ok(MessageRejected(error)) => Self::MessageRejected(error),
                Err(error) => match error.downcast() {
                    Ok(OversizedControlFrame) => Self::ProtocolError(CloseCode::Protocol),
                    Err(_) => Self::ConnectionLost,
                },
            },
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                Self::MessageRejected(RequestError::BodyTooLarge { max_bytes })
            }
            Error::Utf8(_) => Self::ProtocolError(CloseCode::Invalid),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
            | Error::ConnectionClosed
            | Error::AlreadyClosed => Self::ConnectionLost,
            _ => Self::ProtocolError(CloseCode::Protocol),
        }
    }

    /// The close code, for the metrics.
    pub fn code(&self) -> u16 {
        match self {
            Self::ConnectionLost => CLOSE_ABNORMAL,
            Self::Closed(code) => code.unwrap_or(CLOSE_NO_STATUS),
            _ => self.close_frame().map_or(CLOSE_ABNORMAL, |(code, _)| code.into()),
        }
    }

    /// The close frame, if the gateway is the one to send it.
    fn close_frame(&self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::ConnectionLost | Self::Closed(_) => None,
            Self::ProtocolError(code) => Some((*code, "")),
            Self::MessageRejected(RequestError::BodyTooLarge { .. }) => {
                Some((CloseCode::Size, "message too large"))
            }
            Self::MessageRejected(RequestError::BodyTimeout { .. }) => {
                Some((CloseCode::Policy, "message incomplete"))
            }
            Self::MessageRejected(_) => Some((CloseCode::Again, "try again later")),
            Self::Shutdown => Some((CloseCode::Restart, "service restart")),
            Self::MaxAge(_) => Some((CloseCode::Normal, "connection limit reached")),
        }
    }

    /// The error that is sent before the close frame.
    fn error_before_close(&self) -> Option<RequestError> {
        match self {
            Self::MessageRejected(error) => Some(error.clone()),
            Self::MaxAge(age) => Some(RequestError::SocketMaxAge(*age)),
            _ => None,
        }
    }
}

/// Sends the error and the close frame, and waits for the client's reply.
pub async fn close_gracefully(socket: &mut Socket, reason: &CloseReason) {
    let closing = async {
        let frame = reason.error_before_close().map(|error| ErrorReply::from(error).frame(None));
        if let Some(message) = frame.as_ref().map(text_message) {
            socket.feed(message).await.ok();
        }
        match reason.close_frame() {
            // The reply to the client's close frame is in the buffer already.
            None => socket.flush().await.ok(),
            Some((code, text)) => {
                socket.close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(text) })).await.ok()
            }
        };
        // The client's reply, and what it sent before.
        while let Some(Ok(_)) = socket.next().await {}
    };
    if matches!(reason, CloseReason::ConnectionLost) {
        return;
    }
    let is_closed = tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_ok();
    if is_closed && matches!(reason, CloseReason::MessageRejected(_) | CloseReason::ProtocolError(_)) {
        let discarding = socket.get_mut().discard(CLOSE_TIMEOUT);
        tokio::time::timeout(MAX_DRAIN, discarding).await.ok();
    }
}

/// A text message. What an upstream sent that is not UTF-8 becomes U+FFFD.
pub fn text_message(bytes: &Bytes) -> Message {
    let text = Utf8Bytes::try_from(bytes.clone());
    Message::Text(text.unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned().into()))
}
