//! The accept loop: connections with their timeouts, and a graceful stop.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Request, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::either::Either;
use tower::ServiceExt;

use super::auth::Peer;
use super::error::RequestError;
use super::error_reply::ErrorReply;
use super::origin::FORWARDED_PROTO;
use super::socket::UpgradeSlot;
use super::stall::{ClientStream, StallGuard};
use super::streams::{Streams, in_pieces};
use crate::tls::Tls;
use antiphon_runtime::workers::Workers;
use antiphon_runtime::{GaugeGuard, Tasks};
use prometheus_client::metrics::gauge::Gauge;

/// The pause after a failed accept, which mostly means that no file descriptors are left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long the head of a request may be over HTTP/1, as no tenant's share pays for it. Over HTTP/2 it is 16 KiB.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// How many streams a client may have at a time on one connection over HTTP/2.
const MAX_STREAMS: u32 = 100;

/// What every TLS handshake begins with: the type of its record.
const TLS_HANDSHAKE: u8 = 22;

/// Serves one listener.
pub struct Server {
    pub router: Router,
    /// If set, clients are served over TLS only.
    pub tls: Option<Arc<Tls>>,
    pub max_connections: usize,
    /// How long a client may take to send the headers of a request, and how long a connection may be idle between two
    /// requests. Longer than clients keep idle connections: otherwise they would write to one that is being closed.
    pub header_read_timeout: Duration,
    pub write_stall_timeout: Duration,
    pub connections: Gauge,
    pub tasks: Tasks,
    pub workers: Arc<Workers>,
}

impl Server {
    /// Accepts connections until the process stops. Connections then finish their current request.
    pub async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(self.max_connections));
        let mut stopping = self.tasks.stopping().listen();
        loop {
            let Some(accepted) = stopping.or(pin!(accept(&listener, &slots))).await else { return };
            let Some((stream, peer, slot)) = accepted else { continue };
            // Boxed because the tasks around it would hold it several times.
            let connection = Box::pin(self.connection(stream, peer));
            let open = GaugeGuard::new(&self.connections);
            self.workers.spawn_connection(&self.tasks, async move {
                connection.await;
                drop((slot, open));
            });
        }
    }

    fn builder(&self, streams: &Streams) -> Builder<Streams> {
        let mut builder = Builder::new(streams.clone());
        let mut http1 = builder.http1();
        http1.timer(TokioTimer::new()).header_read_timeout(self.header_read_timeout);
        http1.max_buf_size(MAX_HEAD_BYTES);
        let mut http2 = builder.http2();
        http2.timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(20));
        http2.max_concurrent_streams(MAX_STREAMS);
        builder
    }

    fn connection(
        &self,
        stream: std::net::TcpStream,
        peer: Peer,
    ) -> impl Future<Output = ()> + Send + 'static {
        let streams = Streams::new(self.write_stall_timeout);
        let builder = self.builder(&streams);
        let router = self.router.clone();
        let request_begun = Arc::new(Notify::new());
        let first_request = Arc::clone(&request_begun);
        let is_used = Arc::new(AtomicBool::new(false));
        let note_use = Arc::clone(&is_used);
        let upgrade_slot = UpgradeSlot::default();
        let slot_of_requests = upgrade_slot.clone();
        let tls = self.tls.clone();
        let mut stopping = self.tasks.stopping().listen();
        let (header_read_timeout, write_stall_timeout) = (self.header_read_timeout, self.write_stall_timeout);
        async move {
            // Created here, as a stream belongs to the runtime that it is created on.
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            let handshake =
                tokio::time::timeout(header_read_timeout, open(tls.as_deref(), stream, write_stall_timeout));
            let Some(Ok(opened)) = stopping.or(pin!(handshake)).await else { return };
            let stream = match opened {
                Ok(stream) => stream,
                Err(error) => return tracing::debug!(%error, "TLS handshake failed"),
            };
            let is_tls = matches!(stream, Either::Right(_));
            let is_refused = tls.is_some() && !is_tls;
            let service = service_fn(move |mut request: Request<Incoming>| {
                request_begun.notify_one();
                note_use.store(true, Ordering::Relaxed);
                if is_tls {
                    // As a proxy with TLS says it.
                    request.headers_mut().insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
                }
                let router = (!is_refused).then(|| router.clone());
                handle(router, peer, &slot_of_requests, request)
            });
            // Boxed, so that its memory is released before a WebSocket takes over.
            let mut connection =
                Box::pin(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
            let stopping_or_idle = async {
                tokio::select! {
                    () = &mut stopping => {}
                    () = streams.idle(header_read_timeout) => {}
                }
            };
            let served = tokio::select! {
                biased;
                served = connection.as_mut() => served,
                () = first_request_timeout(&first_request, header_read_timeout) => return,
                () = stopping_or_idle => {
                    // hyper would wait for the rest of a first request that has begun.
                    if !is_used.load(Ordering::Relaxed) {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        served = connection.as_mut() => served,
                        () = streams.idle(write_stall_timeout) => return,
                    }
                }
            };
            drop(connection);
            if let Err(error) = served {
                tracing::debug!(error, "connection closed with an error");
            }
            if let Some(accepted) = upgrade_slot.take() {
                Box::pin(accepted.serve()).await;
            }
        }
    }
}

/// The stream to a client. With TLS, that of a client that speaks plain HTTP is not encrypted: it is told so.
async fn open(
    tls: Option<&Tls>,
    stream: TcpStream,
    write_stall_timeout: Duration,
) -> io::Result<ClientStream> {
    let is_tls = match tls {
        Some(_) => {
            let mut first = [0];
            stream.peek(&mut first).await? == 0 || first == [TLS_HANDSHAKE]
        }
        None => false,
    };
    let stream = StallGuard::new(stream, write_stall_timeout);
    Ok(match tls {
        Some(tls) if is_tls => Either::Right(Box::new(Box::pin(tls.accept(stream)).await?)),
        _ => Either::Left(stream),
    })
}

/// Resolves if no first request begins in time. The builder's own limit starts only when the peer has shown which version
/// of HTTP it speaks, and there is no limit for that.
async fn first_request_timeout(first_request: &Notify, limit: Duration) {
    if tokio::time::timeout(limit, first_request.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(std::net::TcpStream, Peer, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => {
            // Otherwise a small event waits up to 40 ms for the acknowledgement of the one before.
            stream.set_nodelay(true).ok();
            Some((stream.into_std().ok()?, Peer(address.ip()), slot))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection; retrying");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            None
        }
    }
}

/// `router` is `None` for a client that must use HTTPS.
fn handle(
    router: Option<Router>,
    peer: Peer,
    upgrade_slot: &UpgradeSlot,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    if request.headers().contains_key(header::UPGRADE) {
        request.extensions_mut().insert(upgrade_slot.clone());
    }
    let has_host = put_host(&mut request);
    if let Some(uri) = without_trailing_slash(request.uri()) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(peer);
    let reply = match router {
        Some(router) if has_host => Ok(router.oneshot(request.map(Body::new))),
        Some(_) => Err(RequestError::BadHost),
        None => Err(RequestError::HttpsRequired),
    };
    async {
        match reply {
            Ok(reply) => Ok(in_pieces(unless_panicking(reply).await)),
            Err(error) => Ok(ErrorReply::from(error.row()).into_response()),
        }
    }
}

/// A handler's reply, or an error if it panics, which is logged where panics are.
async fn unless_panicking(reply: impl Future<Output = Result<Response, Infallible>>) -> Response {
    match AssertUnwindSafe(reply).catch_unwind().await {
        Ok(Ok(reply)) => reply,
        Err(_panic) => ErrorReply::from(RequestError::Internal.row()).into_response(),
    }
}

/// Has the host in one header, whatever version of HTTP brought it. `false` if there is none, or more than one.
fn put_host(request: &mut Request<Incoming>) -> bool {
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        return false;
    }
    if request.headers().contains_key(header::HOST) || request.version() == Version::HTTP_10 {
        return true;
    }
    let authority = request.uri().authority().and_then(|authority| authority.as_str().parse().ok());
    authority.is_some_and(|authority| request.headers_mut().insert(header::HOST, authority).is_none())
}

/// The URI without trailing slashes; `None` if it has none.
fn without_trailing_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if path.len() < 2 || !path.ends_with('/') {
        return None;
    }
    let trimmed = path.trim_end_matches('/');
    let trimmed = if trimmed.is_empty() { "/" } else { trimmed };
    let path_and_query = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_answers_500() {
        let reply = unless_panicking(async { resume_unwind(Box::new(())) }).await;
        assert_eq!(reply.status(), 500);
        let body = axum::body::to_bytes(reply.into_body(), 1024).await.unwrap();
        assert!(body.starts_with(br#"{"error":{"message":""#), "{body:?}");
    }

    #[test]
    fn trailing_slashes_of_a_path_are_ignored() {
        let trim =
            |uri: &'static str| without_trailing_slash(&Uri::from_static(uri)).map(|uri| uri.to_string());
        assert_eq!(trim("/v1/responses/?a=b/").as_deref(), Some("/v1/responses?a=b/"));
        assert_eq!(trim("http://h/v1/models//").as_deref(), Some("http://h/v1/models"));
        assert_eq!(trim("//").as_deref(), Some("/"));
        assert_eq!((trim("/"), trim("/v1/responses")), (None, None));
    }
}
