//! Sockets to upstreams that speak the API over WebSocket.
//!
//! A socket carries one turn at a time. When its turn is over it waits, kept alive, for the turn that continues the
//! response: the upstream remembers that one on the socket, so the new items are all that has to be sent.

mod body;
mod handshake;
mod idle;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::event::EventKind;
use antiphon_protocol::json;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

pub use self::body::SocketBody;
pub use self::handshake::{Handshake, NotOpened};
pub use self::idle::Idle;

use super::reply::ReplyBody;
use antiphon_runtime::GaugeGuard;

type Wire = WebSocketStream<TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>>;

/// Upstreams end a socket after an hour; a turn should not be what meets that.
const MAX_AGE: Duration = Duration::from_mins(55);

/// An open socket on which no turn is under way.
pub struct Socket {
    wire: Wire,
    opened_at: Instant,
    /// What the upstream said when it was opened, for the first turn.
    headers: HeaderMap,
    _open: GaugeGuard,
}

/// The socket was gone before the upstream said anything to the turn.
#[derive(Debug, thiserror::Error)]
#[error("the socket was lost: {0}")]
pub struct SocketLost(String);

// === impl Socket ===

impl Socket {
    fn new(wire: Wire, headers: HeaderMap, open: GaugeGuard) -> Self {
        Self { wire, opened_at: Instant::now(), headers, _open: open }
    }

    fn is_old(&self) -> bool {
        self.opened_at.elapsed() > MAX_AGE
    }

    /// Sends a turn and waits for the first event, or the error in its place, which is put as an HTTP reply. `account` is the
    /// account's identity.
    pub async fn ask(
        mut self,
        frame: Vec<Bytes>,
        account: &str,
        idle: &Arc<Idle>,
    ) -> Result<Response<ReplyBody>, SocketLost> {
        let message = Frame::message(frame.concat(), OpCode::Data(Data::Text), true);
        let lost = |why: String| SocketLost(why);
        self.wire.send(Message::Frame(message)).await.map_err(|error| lost(error.to_string()))?;
        let first = loop {
            match self.wire.next().await {
                Some(Ok(Message::Text(text))) => break Bytes::from(text),
                Some(Ok(Message::Close(frame))) => {
                    return Err(lost(
                        frame.map_or("closed".to_owned(), |frame| format!("closed with {}", frame.code)),
                    ));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost(error.to_string())),
                None => return Err(lost("closed".to_owned())),
            }
        };
        if EventKind::of_event(None, &first) == EventKind::Error {
            return match refusal(&first) {
                // It has grown too old while it waited.
                (_, error) if json::string_member(&error, "code").as_deref() == Some(TOO_OLD) => {
                    Err(lost("too old".to_owned()))
                }
                (status, error) => Ok(as_reply(status, &error, &first)),
            };
        }
        let headers = std::mem::take(&mut self.headers);
        let body = SocketBody::new(self, first, account.to_owned(), Arc::clone(idle));
        let mut reply = Response::new(ReplyBody::Socket(Box::new(body)));
        *reply.headers_mut() = headers;
        reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        Ok(reply)
    }

    fn wire(&mut self) -> Pin<&mut Wire> {
        Pin::new(&mut self.wire)
    }
}

const TOO_OLD: &str = "websocket_connection_limit_reached";

/// The status and the error object of an error event.
fn refusal(event: &[u8]) -> (StatusCode, Bytes) {
    let number =
        |name| json::member(event, name).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    let status: Option<u16> = number("status").or_else(|| number("status_code"));
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

/// As many as a reply over HTTP may have: a map of headers has no room for any number.
const MAX_HEADERS: usize = 100;

/// The reply that it would have been over HTTP. Headers stand in the event.
fn as_reply(status: StatusCode, error: &[u8], event: &[u8]) -> Response<ReplyBody> {
    let body = [&br#"{"error":"#[..], error, b"}"].concat();
    let mut reply = Response::new(ReplyBody::Whole(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    let named = json::member(event, "headers").filter(|headers| headers.first() == Some(&b'{'));
    let named = named.unwrap_or(b"{}");
    for member in json::members(named).map_while(Result::ok).take(MAX_HEADERS) {
        let (Some(name), Some(value)) =
            (json::string(&named[member.key]), json::string(&named[member.value]))
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
    fn an_error_event_is_the_reply_that_it_stands_for() {
        let event =
            br#"{"type":"error","status":429,"headers":{"retry-after":"7","x":1},"error":{"code":"c"}}"#;
        let (status, error) = refusal(event);
        assert_eq!((status.as_u16(), &error[..]), (429, &br#"{"code":"c"}"#[..]));
        let reply = as_reply(status, &error, event);
        assert_eq!(reply.headers()["retry-after"], "7");
        let many: String = (0..30_000).map(|n| format!("\"x-{n}\":\"\",")).collect();
        let event = format!(r#"{{"headers":{{{many}"x":""}}}}"#);
        let reply = as_reply(status, &error, event.as_bytes());
        assert_eq!(reply.headers().len(), MAX_HEADERS + 1, "and the content type");
        for (event, status) in [
            (&br#"{"type":"error","error":{"type":"invalid_request_error"}}"#[..], 400),
            (br#"{"type":"error","error":{"type":"rate_limit_error"}}"#, 429),
            (br#"{"type":"error","status":200,"error":{}}"#, 500),
            (br#"{"type":"error","code":"x","message":"m"}"#, 500),
        ] {
            assert_eq!(refusal(event).0.as_u16(), status);
        }
    }
}
