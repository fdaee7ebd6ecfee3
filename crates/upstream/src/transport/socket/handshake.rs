//! Opening a socket.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, handshake};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Socket;
use super::split::SplitFrames;
use crate::client::{SendError, SocketConnector, Stream};
use crate::metrics::UpstreamMetrics;
use crate::route::Route;
use crate::transport::headers;

/// Small, because most messages are, and many sockets are idle.
const BUFFER_BYTES: usize = 4 * 1024;
/// Larger than any error of the API.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// For the body of a refusal, whose head tells more.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
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
    #[error("the upstream replied with status {}", .0.status())]
    Refused(Box<Response<Bytes>>),
    #[error("the WebSocket handshake timed out")]
    Timeout,
    /// The machine has no room for another connection.
    #[error("{0}")]
    NoResources(String),
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
        let shaking = tokio::time::timeout(self.timeout, self.shake(uri, headers, route));
        let (stream, shaken) = shaking.await.unwrap_or(Err(NotOpened::Timeout))?;
        let reply = match shaken {
            Ok(reply) => reply,
            Err(Error::Http(reply)) => {
                let body = read_refusal(stream.into_rest(), reply.headers()).await;
                return Err(NotOpened::Refused(Box::new(reply.map(|_| body))));
            }
            Err(other) => return Err(not_opened(&other)),
        };
        let wire = WebSocketStream::from_raw_socket(stream, Role::Client, Some(self.config())).await;
        let open = self.metrics.socket_opened();
        Ok(Socket::new(wire, headers::for_client(reply.headers()), open))
    }

    /// The stream, read to the end of the head of the reply.
    async fn shake(
        &self,
        uri: &Uri,
        headers: HeaderMap,
        route: &Route,
    ) -> Result<(SplitFrames<TokioIo<Stream>>, Result<handshake::client::Response, Error>), NotOpened> {
        let connected = self.connector.connect(uri, route).await;
        let stream = connected.map_err(|error| match error {
            SendError::NoResources(reason) => NotOpened::NoResources(reason),
            error => NotOpened::Failed(error.to_string()),
        })?;
        let mut stream = SplitFrames::new(TokioIo::new(stream), self.max_message_bytes);
        let mut request = socket_uri(uri).into_client_request().map_err(|error| not_opened(&error))?;
        request.headers_mut().extend(headers);
        request.headers_mut().entry(BETA).or_insert(BETA_VALUE);
        let shaken = client_async_with_config(request, &mut stream, Some(self.config())).await;
        let shaken = shaken.map(|(_, reply)| reply);
        Ok((stream, shaken))
    }

    fn config(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(self.max_message_bytes))
            .max_frame_size(Some(self.max_message_bytes))
    }
}

/// The same address with the scheme of WebSockets.
fn socket_uri(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    let scheme = if uri.scheme_str() == Some("https") { "wss" } else { "ws" };
    parts.scheme = Some(scheme.parse().expect("a valid scheme"));
    Uri::from_parts(parts).expect("changing the scheme keeps the address valid")
}

fn not_opened(error: &Error) -> NotOpened {
    NotOpened::Failed(error.to_string())
}

/// The body of a reply that refuses a socket, as far as it arrives in time.
async fn read_refusal(mut stream: impl AsyncRead + Unpin, headers: &HeaderMap) -> Bytes {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let max_bytes = if is_chunked { MAX_REFUSAL_BYTES } else { length.unwrap_or(MAX_REFUSAL_BYTES) };
    let mut read = Vec::new();
    let reading = async {
        while read.len() < max_bytes.min(MAX_REFUSAL_BYTES) && !(is_chunked && read.ends_with(LAST_CHUNK)) {
            let mut piece = [0; 1024];
            match stream.read(&mut piece).await {
                Ok(count) if count > 0 => read.extend_from_slice(&piece[..count]),
                _ => break,
            }
        }
    };
    tokio::time::timeout(REFUSAL_TIMEOUT, reading).await.ok();
    if is_chunked { unchunked(&read).into() } else { read.into() }
}

/// The data in a chunked body.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(line_end) = memchr::memmem::find(body, b"\r\n") {
        let digits = body[..line_end].split(|byte| !byte.is_ascii_hexdigit()).next().unwrap_or_default();
        let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        body = &body[line_end + 2..];
        let Some(chunk) = size.filter(|size| *size > 0).and_then(|size| body.get(..size)) else { break };
        data.extend_from_slice(chunk);
        body = body.get(chunk.len() + 2..).unwrap_or_default();
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_body_of_a_refusal_is_read_however_it_is_framed() {
        let read = async |name: &'static str, value: &'static str, stream: &'static [u8]| {
            let headers = HeaderMap::from_iter([(
                name.parse::<http::HeaderName>().unwrap(),
                HeaderValue::from_static(value),
            )]);
            read_refusal(stream, &headers).await
        };
        assert_eq!(read("content-length", "2", b"{}").await, "{}");
        assert_eq!(read("x", "y", b"{}").await, "{}", "until it is closed");
        let chunked = b"1;ext=1\r\n{\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(read("transfer-encoding", "chunked", chunked).await, "{0123456789");
        for cut in 0..chunked.len() {
            assert!(b"{0123456789".starts_with(&unchunked(&chunked[..cut])), "cut at {cut}");
        }
        assert_eq!(unchunked(b"ffffffffffffffffff\r\n{"), b"");
    }
}
