//! Sockets to upstreams that speak the API over WebSocket.
//!
//! A socket carries one turn at a time. When its turn has ended, the socket is kept alive for the turn that continues the
//! response. The upstream remembers that response on the socket, so only the new items are sent.

mod body;
mod handshake;
mod idle;
mod split;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::event::{Event, EventKind, MAX_PRELUDE};
use antiphon_protocol::json;
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

pub use self::body::SocketBody;
pub(crate) use self::handshake::Handshake;
pub use self::handshake::NotOpened;
pub(crate) use self::idle::{IdleSockets, Served};

use self::split::SplitFrames;
use super::reply::ReplyBody;
use crate::client::Stream;
use antiphon_runtime::GaugeGuard;

type Wire = WebSocketStream<SplitFrames<TokioIo<Stream>>>;

/// Upstreams close a socket after an hour. This is less, so that no turn is cut off.
const MAX_AGE: Duration = Duration::from_mins(55);
/// After a request larger than this, an idle socket shrinks its buffers.
const SHRINK_THRESHOLD_BYTES: usize = 8 * 1024;

/// An open socket on which no turn is running.
pub struct Socket {
    wire: Wire,
    opened_at: Instant,
    /// Whether buffers may be larger than an idle socket should keep.
    has_large_buffers: bool,
    /// The headers of the handshake's reply, for the first turn.
    headers: HeaderMap,
    /// The upstream's id of the latest response.
    latest: Option<String>,
    _gauge: GaugeGuard,
}

/// The socket was lost before the first event of the turn.
#[derive(Debug, thiserror::Error)]
#[error("the WebSocket was lost: {0}")]
pub struct SocketLost(String);

// === impl Socket ===

impl Socket {
    fn new(wire: Wire, headers: HeaderMap, gauge: GaugeGuard) -> Self {
        Self {
            wire,
            opened_at: Instant::now(),
            has_large_buffers: false,
            headers,
            latest: None,
            _gauge: gauge,
        }
    }

    fn is_expired(&self) -> bool {
        self.opened_at.elapsed() > MAX_AGE
    }

    /// Sends a turn and waits for the first event of its response. An error in its place becomes an HTTP reply.
    ///
    /// # Errors
    ///
    /// [`SocketLost`] if the socket ends before the first event.
    pub(super) async fn send_turn(
        mut self,
        frame: Vec<Bytes>,
        served: Served,
        idle: &Arc<IdleSockets>,
    ) -> Result<Response<ReplyBody>, SocketLost> {
        let frame = frame.concat();
        self.has_large_buffers |= frame.len() > SHRINK_THRESHOLD_BYTES;
        let message = Frame::message(frame, OpCode::Data(Data::Text), true);
        // An upstream may refuse a message before its end: a write that fails lets the reason be read.
        self.wire.get_mut().set_reading(true);
        self.wire.send(Message::Frame(message)).await.map_err(|error| SocketLost(error.to_string()))?;
        let mut begun = VecDeque::new();
        loop {
            let event = self.next_event().await?;
            let kind = EventKind::of_event(None, &event);
            if kind == EventKind::Error {
                return match error_of_event(&event) {
                    // It has reached its maximum age while it was idle.
                    (_, error)
                        if json::string_member(&error, "code").as_deref() == Some(CONNECTION_LIMIT_CODE) =>
                    {
                        Err(SocketLost("too old".to_owned()))
                    }
                    (status, error) => Ok(to_http_reply(status, &error, &event)),
                };
            }
            // Late, and other events of the turn before may follow.
            if self.latest.is_some() && response_id(kind, &event) == self.latest {
                return Err(SocketLost("it sent an event of the turn before".to_owned()));
            }
            let is_prelude =
                begun.len() < MAX_PRELUDE && Event::Message { kind, data: event.clone() }.is_prelude();
            begun.push_back(event);
            if !is_prelude {
                break;
            }
        }
        let headers = std::mem::take(&mut self.headers);
        let body = SocketBody::new(self, begun, served, Arc::clone(idle));
        let mut reply = Response::new(ReplyBody::Socket(Box::new(body)));
        *reply.headers_mut() = headers;
        reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        Ok(reply)
    }

    async fn next_event(&mut self) -> Result<Bytes, SocketLost> {
        loop {
            return Err(SocketLost(match self.wire.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.into()),
                Some(Ok(Message::Close(frame))) => {
                    frame.map_or("closed".to_owned(), |frame| format!("closed with {}", frame.code))
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => error.to_string(),
                None => "closed".to_owned(),
            }));
        }
    }

    /// The socket with small buffers. No frame may be partly read or written.
    fn shrunk(self) -> Self {
        if !self.has_large_buffers {
            return self;
        }
        let config = *self.wire.get_config();
        let wire = WebSocketStream::from_raw_socket(self.wire.into_inner(), Role::Client, Some(config));
        let wire = wire.now_or_never().expect("no handshake takes place");
        Self { wire, has_large_buffers: false, ..self }
    }

    fn wire(&mut self) -> Pin<&mut Wire> {
        Pin::new(&mut self.wire)
    }
}

/// The upstream's id of the response that an event carries.
fn response_id(kind: EventKind, event: &[u8]) -> Option<String> {
    if !matches!(kind, EventKind::Snapshot | EventKind::Terminal) {
        return None;
    }
    json::string_member(json::member(event, "response")?, "id").map(Into::into)
}

const CONNECTION_LIMIT_CODE: &str = "websocket_connection_limit_reached";

/// Stands for an error that is no valid JSON.
const MALFORMED_ERROR: &[u8] =
    br#"{"message":"The upstream sent a malformed error.","type":"server_error","param":null,"code":null}"#;

/// The status and the error object of an error event.
fn error_of_event(event: &[u8]) -> (StatusCode, Bytes) {
    let number =
        |name| json::member(event, name).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    let status: Option<u16> = number("status").or_else(|| number("status_code"));
    if json::validate(event).is_err() {
        return (StatusCode::BAD_GATEWAY, Bytes::from_static(MALFORMED_ERROR));
    }
    let error = json::member(event, "error").filter(|error| error.first() == Some(&b'{')).unwrap_or(event);
    let by_kind = || match json::string_member(error, "type").as_deref() {
        Some("invalid_request_error") => StatusCode::BAD_REQUEST,
        Some("rate_limit_error") => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.filter(|status| status.is_client_error() || status.is_server_error());
    (status.unwrap_or_else(by_kind), Bytes::copy_from_slice(error))
}

/// As many headers as a reply over HTTP may have: a `HeaderMap` panics when it gets too many.
const MAX_HEADERS: usize = 100;

/// The HTTP reply that an error event stands for. The event contains its headers.
fn to_http_reply(status: StatusCode, error: &[u8], event: &[u8]) -> Response<ReplyBody> {
    let body = [&br#"{"error":"#[..], error, b"}"].concat();
    let mut reply = Response::new(ReplyBody::Whole(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    let listed = json::member(event, "headers").filter(|headers| headers.first() == Some(&b'{'));
    let listed = listed.unwrap_or(b"{}");
    for member in json::members(listed).map_while(Result::ok).take(MAX_HEADERS) {
        let (Some(name), Some(value)) =
            (json::string(&listed[member.key]), json::string(&listed[member.value]))
        else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&*name), HeaderValue::try_from(&*value)) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_event_becomes_an_http_error_reply() {
        let event =
            br#"{"type":"error","status":429,"headers":{"retry-after":"7","x":1},"error":{"code":"c"}}"#;
        let (status, error) = error_of_event(event);
        assert_eq!((status.as_u16(), &error[..]), (429, &br#"{"code":"c"}"#[..]));
        let reply = to_http_reply(status, &error, event);
        assert_eq!(reply.headers()["retry-after"], "7");
        let many: String = (0..30_000).map(|n| format!("\"x-{n}\":\"\",")).collect();
        let event = format!(r#"{{"headers":{{{many}"x":""}}}}"#);
        let reply = to_http_reply(status, &error, event.as_bytes());
        assert_eq!(reply.headers().len(), MAX_HEADERS + 1, "and the content type");
        for (event, status) in [
            (&br#"{"type":"error","error":{"type":"invalid_request_error"}}"#[..], 400),
            (br#"{"type":"error","error":{"type":"rate_limit_error"}}"#, 429),
            (br#"{"type":"error","status":200,"error":{}}"#, 500),
            (br#"{"type":"error","code":"x","message":"m"}"#, 500),
            (br#"{"type":"error","status":400,"error":{"message":"m","param":nul}}"#, 502),
        ] {
            assert_eq!(error_of_event(event).0.as_u16(), status);
        }
    }
}
