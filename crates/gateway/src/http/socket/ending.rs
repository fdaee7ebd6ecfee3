//! Why a socket is closed, and how.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::connection::Socket;
use super::metered::Unread;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;

/// How long a client may take to answer the closing frame.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long what a client goes on sending is thrown away, so that it gets to read why.
const MAX_DISCARDING: Duration = Duration::from_secs(20);
/// A connection that ended without a closing frame.
pub const ABNORMAL: u16 = 1006;
/// A closing frame without a code.
const NO_STATUS: u16 = 1005;

#[derive(Debug)]
pub enum Ending {
    /// The client is not there any more.
    Gone,
    /// The client has closed the socket, with this code.
    Closed(Option<u16>),
    /// What came is no WebSocket.
    Broken(CloseCode),
    /// A message that can't be read to its end.
    Unread(RequestError),
    /// The process is asked to stop.
    Restart,
    TooOld(Duration),
}

impl Ending {
    pub fn of(error: Error, max_bytes: usize) -> Self {
        match error {
            Error::Io(error) => match error.downcast::<Unread>() {
                Ok(Unread(error)) => Self::Unread(error),
                Err(_) => Self::Gone,
            },
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                Self::Unread(RequestError::BodyTooLarge { max_bytes })
            }
            Error::Utf8(_) => Self::Broken(CloseCode::Invalid),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
            | Error::ConnectionClosed
            | Error::AlreadyClosed => Self::Gone,
            _ => Self::Broken(CloseCode::Protocol),
        }
    }

    /// The close code, for the metrics.
    pub fn code(&self) -> u16 {
        match self {
            Self::Gone => ABNORMAL,
            Self::Closed(code) => code.unwrap_or(NO_STATUS),
            _ => self.closing().map_or(ABNORMAL, |(code, _)| code.into()),
        }
    }

    /// The closing frame, if it is ours to send.
    fn closing(&self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::Gone | Self::Closed(_) => None,
            Self::Broken(code) => Some((*code, "")),
            Self::Unread(RequestError::BodyTooLarge { .. }) => Some((CloseCode::Size, "message too large")),
            Self::Unread(RequestError::BodyTimeout(_)) => Some((CloseCode::Policy, "message incomplete")),
            Self::Unread(_) => Some((CloseCode::Again, "try again later")),
            Self::Restart => Some((CloseCode::Restart, "service restart")),
            Self::TooOld(_) => Some((CloseCode::Normal, "connection limit reached")),
        }
    }

    /// What is told before.
    fn error(&self) -> Option<RequestError> {
        match self {
            Self::Unread(error) => Some(error.clone()),
            Self::TooOld(age) => Some(RequestError::SocketTooOld(*age)),
            _ => None,
        }
    }
}

/// Closes the socket in good order.
pub async fn say_goodbye(socket: &mut Socket, ending: &Ending) {
    let goodbye = async {
        let frame = ending.error().map(|error| ErrorReply::from(error).frame(None));
        if let Some(message) = frame.and_then(text) {
            socket.feed(message).await.ok();
        }
        match ending.closing() {
            // The answer to the client's closing frame is in the buffer.
            None => socket.flush().await.ok(),
            Some((code, reason)) => {
                socket.close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) })).await.ok()
            }
        };
        // Its answer, and what it has sent before.
        while let Some(Ok(_)) = socket.next().await {}
    };
    if matches!(ending, Ending::Gone) {
        return;
    }
    let is_said = tokio::time::timeout(GOODBYE, goodbye).await.is_ok();
    if is_said && matches!(ending, Ending::Unread(_) | Ending::Broken(_)) {
        let discarding = socket.get_mut().discard(GOODBYE);
        tokio::time::timeout(MAX_DISCARDING, discarding).await.ok();
    }
}

/// A text message, if the bytes are text.
pub fn text(bytes: Bytes) -> Option<Message> {
    Utf8Bytes::try_from(bytes).ok().map(Message::Text)
}
