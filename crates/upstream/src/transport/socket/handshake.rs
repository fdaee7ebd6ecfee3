//! Opening a socket.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, protocol::WebSocketConfig};

use super::Socket;
use super::split::SplitFrames;
use crate::client::SocketConnector;
use crate::metrics::UpstreamMetrics;
use crate::route::Route;
use crate::transport::headers;

/// Small, because most messages are, and many sockets are idle.
const BUFFER_BYTES: usize = 4 * 1024;
const BETA: &str = "openai-beta";
const BETA_VALUE: HeaderValue = HeaderValue::from_static("responses_websockets=2026-02-06");

/// Opens sockets.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// For HTTP/1.1 only, because HTTP/2 connections can't be upgraded.
    connector: SocketConnector,
    /// For connecting and the upgrade together.
    timeout: Duration,
    max_message_bytes: usize,
    metrics: UpstreamMetrics,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    #[error("the upstream replied with status {0}")]
    Refused(StatusCode),
    #[error("the WebSocket handshake timed out")]
    Timeout,
    #[error("{0}")]
    Failed(String),
}

// === impl Handshake ===

impl Handshake {
    pub fn new(
        connector: SocketConnector,
        timeout: Duration,
        max_message_bytes: usize,
        metrics: UpstreamMetrics,
    ) -> Self {
        Self { connector, timeout, max_message_bytes, metrics }
    }

    /// `headers` are those of a request over HTTP.
    ///
    /// # Errors
    ///
    /// [`NotOpened`] if the upstream can't be reached, or does not open a socket in time.
    pub async fn open(&self, uri: &Uri, headers: HeaderMap, route: &Route) -> Result<Socket, NotOpened> {
        let opened = tokio::time::timeout(self.timeout, self.try_open(uri, headers, route)).await;
        opened.unwrap_or(Err(NotOpened::Timeout))
    }

    async fn try_open(&self, uri: &Uri, headers: HeaderMap, route: &Route) -> Result<Socket, NotOpened> {
        let connected = self.connector.connect(uri, route).await;
        let stream = connected.map_err(|error| NotOpened::Failed(error.to_string()))?;
        let stream = SplitFrames::new(TokioIo::new(stream), self.max_message_bytes);
        let mut request = socket_uri(uri).into_client_request().map_err(not_opened)?;
        request.headers_mut().extend(headers);
        request.headers_mut().entry(BETA).or_insert(BETA_VALUE);
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(self.max_message_bytes))
            .max_frame_size(Some(self.max_message_bytes));
        let opened = client_async_with_config(request, stream, Some(config)).await;
        let (wire, reply) = opened.map_err(not_opened)?;
        let open = self.metrics.socket_opened();
        Ok(Socket::new(wire, headers::for_client(reply.headers()), open))
    }
}

/// The same address with the scheme of WebSockets.
fn socket_uri(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    let scheme = if uri.scheme_str() == Some("https") { "wss" } else { "ws" };
    parts.scheme = Some(scheme.parse().expect("a valid scheme"));
    Uri::from_parts(parts).expect("changing the scheme keeps the address valid")
}

fn not_opened(error: Error) -> NotOpened {
    match error {
        Error::Http(reply) => NotOpened::Refused(reply.status()),
        other => NotOpened::Failed(other.to_string()),
    }
}
