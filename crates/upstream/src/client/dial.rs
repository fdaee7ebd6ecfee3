//! Opening a TCP connection to an upstream, or through a proxy.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

use super::wire::Wire;
use crate::route::{Proxy, Route};

const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Connects to the host of an address.
#[derive(Debug, Clone)]
pub struct Dial {
    http: HttpConnector,
    route: Route,
    /// Whether a proxy has to pass on everything, and not only what is encrypted.
    tunnels_all: bool,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a proxy opened no tunnel.
#[derive(Debug, thiserror::Error)]
enum NoTunnel {
    #[error("the proxy refused to connect: status {0}")]
    Refused(u16),
    #[error("the proxy asks for other credentials (status 407)")]
    Unauthorized,
    #[error("the proxy's reply is not HTTP")]
    NotHttp,
}

// === impl Dial ===

impl Dial {
    pub fn new(http: HttpConnector, route: Route, tunnels_all: bool) -> Self {
        Self { http, route, tunnels_all }
    }

    async fn connect(self, uri: Uri) -> Result<Wire, BoxError> {
        let Some(proxy) = self.route.proxy() else { return Ok(Wire::new(self.http.oneshot(uri).await?)) };
        let connection = self.http.oneshot(proxy.uri()).await;
        let connection = connection.map_err(|error| format!("no connection to the proxy: {error}"))?;
        if uri.scheme() != Some(&Scheme::HTTPS) && !self.tunnels_all {
            return Ok(Wire::new(connection));
        }
        let mut connection = connection.into_inner();
        open_tunnel(&mut connection, proxy, &uri).await?;
        Ok(Wire::new(TokioIo::new(connection)))
    }
}

impl Service<Uri> for Dial {
    type Response = Wire;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Asks the proxy to pass everything on to the host of the address.
async fn open_tunnel(connection: &mut TcpStream, proxy: &Proxy, uri: &Uri) -> Result<(), BoxError> {
    let default_port = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = uri.host().unwrap_or_default();
    let target = format!("{host}:{}", uri.port_u16().unwrap_or(default_port));
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n").into_bytes();
    if let Some(authorization) = proxy.authorization() {
        for part in [&b"proxy-authorization: "[..], authorization.as_bytes(), b"\r\n"] {
            request.extend_from_slice(part);
        }
    }
    request.extend_from_slice(b"\r\n");
    connection.write_all(&request).await?;
    let mut head = Vec::new();
    // Nothing follows the head: with TLS and HTTP it is the client that speaks first.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD_BYTES || connection.read_buf(&mut head).await? == 0 {
            return Err(NoTunnel::NotHttp.into());
        }
        if let Some(status) = status_of(&head)?.filter(|status| !(200..300).contains(status)) {
            return Err(if status == 407 { NoTunnel::Unauthorized } else { NoTunnel::Refused(status) }.into());
        }
    }
    Ok(())
}

/// The status in a head, once its first line is there.
fn status_of(head: &[u8]) -> Result<Option<u16>, NoTunnel> {
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line = head[..end].trim_ascii_end();
    let status = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    let status = status.and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    status.map(Some).ok_or(NoTunnel::NotHttp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_proxy_is_read_from_its_first_line() {
        assert_eq!(status_of(b"HTTP/1.1 200 Connection established\r\n").unwrap(), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 407\r\n\r\n").unwrap(), Some(407));
        assert_eq!(status_of(b"HTTP/1.1 2").unwrap(), None);
        for text in ["SSH-2.0\r\n", "HTTP/1.1\r\n", "HTTP/1.1 xyz no\r\n", "\n"] {
            assert!(status_of(text.as_bytes()).is_err(), "{text}");
        }
    }
}
