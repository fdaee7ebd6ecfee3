//! A client's end of a WebSocket, as raw as a test needs it.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon_protocol::json;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Error;
pub use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// No test waits longer for a message.
const PATIENCE: Duration = Duration::from_secs(120);

/// An open socket. Dropping it closes the connection without a word, as Codex does.
#[derive(Debug)]
pub struct Socket {
    pub stream: WebSocketStream<TcpStream>,
}

/// What came next.
#[derive(Debug, Clone, PartialEq)]
pub enum Came {
    Frame(Bytes),
    /// The closing frame's code and reason.
    Closed(u16, String),
    /// The connection ended.
    Gone,
}

impl Socket {
    /// Opens a socket at this path, or says how that was refused: status and body.
    pub async fn connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, HeaderValue)],
    ) -> Result<Self, (u16, Bytes)> {
        let stream = TcpStream::connect(address).await.expect("it listens");
        Self::over(stream, path, headers).await
    }

    /// As [`connect`](Self::connect), with a small window for what comes in, so that it is soon full.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(8 * 1024).expect("a small buffer");
        let stream = socket.connect(address).await.expect("it listens");
        Self::over(stream, "/v1/responses", &[]).await.expect("an upgrade")
    }

    async fn over(
        stream: TcpStream,
        path: &str,
        headers: &[(&'static str, HeaderValue)],
    ) -> Result<Self, (u16, Bytes)> {
        stream.set_nodelay(true).expect("a TCP socket");
        let address = stream.peer_addr().expect("connected");
        let mut request = format!("ws://{address}{path}").into_client_request().expect("a valid address");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.clone());
        }
        let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((stream, _)) => Ok(Self { stream }),
            Err(Error::Http(reply)) => {
                let (head, body) = reply.into_parts();
                Err((head.status.as_u16(), body.unwrap_or_default().into()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends a `response.create`: its type is put in.
    pub async fn create(&mut self, mut frame: Value) {
        frame["type"] = Value::from("response.create");
        self.send(frame).await;
    }

    pub async fn send(&mut self, text: impl ToString) {
        self.send_message(Message::text(text.to_string())).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        self.stream.send(message).await.expect("it is open");
    }

    /// Sends bytes that need not be a frame.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        assert!(self.try_send_bytes(bytes).await, "it is open");
    }

    /// As [`send_bytes`](Self::send_bytes); `false` if nobody takes them.
    pub async fn try_send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).await.is_ok()
    }

    /// Sends a text message in frames of so many bytes, with a ping after the first.
    pub async fn send_fragments(&mut self, text: &[u8], piece: usize) {
        let mut pieces = text.chunks(piece).enumerate().peekable();
        while let Some((n, piece)) = pieces.next() {
            let kind = if n == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), pieces.peek().is_none());
            self.send_message(Message::Frame(frame)).await;
            if n == 0 {
                self.send_message(Message::Ping(Bytes::new())).await;
            }
        }
    }

    /// Sends the same piece so many times, without ever saying that the message is over.
    pub async fn send_unfinished(&mut self, piece: &[u8], times: usize) {
        for n in 0..times {
            let kind = if n == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), false);
            self.send_message(Message::Frame(frame)).await;
        }
    }

    /// What comes next, whatever it is; `None` at the end.
    pub async fn message(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(PATIENCE, self.stream.next()).await;
        next.expect("something comes in time").and_then(Result::ok)
    }

    /// What comes next, pings and pongs apart.
    pub async fn next(&mut self) -> Came {
        loop {
            match self.message().await {
                Some(Message::Text(text)) => return Came::Frame(text.into()),
                Some(Message::Close(Some(close))) => {
                    return Came::Closed(close.code.into(), close.reason.to_string());
                }
                Some(Message::Ping(_) | Message::Pong(_) | Message::Close(None)) => {}
                Some(other) => panic!("it sent {other:?}"),
                None => return Came::Gone,
            }
        }
    }

    /// The next frame, as JSON.
    pub async fn frame(&mut self) -> Value {
        match self.next().await {
            Came::Frame(text) => serde_json::from_slice(&text).expect("a frame is JSON"),
            other => panic!("instead of a frame: {other:?}"),
        }
    }

    /// The frames of a turn, up to the one that ends it.
    pub async fn turn(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame().await;
            let is_over = is_last(&frame);
            frames.push(frame);
            if is_over {
                return frames;
            }
        }
    }

    /// Sends a `response.create` and returns the response that came of it.
    pub async fn created(&mut self, frame: Value) -> Value {
        self.create(frame).await;
        let last = self.turn().await.pop().expect("a turn has an end");
        assert_eq!(last["type"], "response.completed", "{last}");
        last["response"].clone()
    }

    /// Sends a `response.create` and returns the error frame that answers it: status, code and param.
    pub async fn refused(&mut self, frame: Value) -> (u64, String, Option<String>) {
        self.create(frame).await;
        self.refusal().await
    }

    /// The error frame that has to come now: status, code and param.
    pub async fn refusal(&mut self) -> (u64, String, Option<String>) {
        let frame = self.frame().await;
        assert_eq!(frame["type"], "error", "{frame}");
        let error = frame["error"].as_object().expect("an error object");
        for key in ["message", "type", "param", "code"] {
            assert!(error.contains_key(key), "the error lacks {key}: {frame}");
        }
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        (frame["status"].as_u64().expect("a status"), text("code").unwrap_or_default(), text("param"))
    }
}

/// Whether a turn has no frames after this one.
fn is_last(frame: &Value) -> bool {
    match frame["type"].as_str() {
        Some("response.completed" | "response.incomplete" | "response.failed") => true,
        // The flat error event of a stream has no status, and `response.failed` comes after it.
        Some("error") => frame.get("status").is_some(),
        _ => false,
    }
}

impl Came {
    /// The raw value of a member of the frame.
    pub fn member(&self, name: &str) -> Option<&[u8]> {
        match self {
            Self::Frame(text) => json::member(text, name),
            Self::Closed(..) | Self::Gone => None,
        }
    }
}
