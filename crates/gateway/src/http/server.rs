//! The accept loop: connections with their timeouts, and a way to stop without cutting anybody off.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt;

use super::auth::Peer;
use super::error::RequestError;
use super::error_reply::ErrorReply;
use super::socket::Handover;
use super::stall::StallGuard;
use antiphon_runtime::workers::Workers;
use antiphon_runtime::{GaugeGuard, Tasks};
use prometheus_client::metrics::gauge::Gauge;

/// When no connection can be accepted (no file descriptors left, above all), how long to wait before the next try.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves one listener.
pub struct Server {
    pub router: Router,
    pub max_connections: usize,
    /// How long a client may take for the head of a request, and sit idle between two: longer than clients keep idle
    /// connections, or they would write to one that is being closed.
    pub header_read: Duration,
    pub write_stall: Duration,
    pub connections: Gauge,
    pub tasks: Tasks,
    pub workers: Arc<Workers>,
}

impl Server {
    /// Accepts until the process is asked to stop. Connections then finish the request that they are at.
    pub async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(self.max_connections));
        let stopping = self.tasks.stopping();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &slots) => accepted,
                () = stopping.cancelled() => return,
            };
            let Some((stream, peer, slot)) = accepted else { continue };
            let connection = self.connection(stream, peer);
            let open = GaugeGuard::new(&self.connections);
            self.workers.spawn_connection(&self.tasks, async move {
                connection.await;
                drop((slot, open));
            });
        }
    }

    fn connection(
        &self,
        stream: std::net::TcpStream,
        peer: Peer,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.header_read);
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(20));
        let router = self.router.clone();
        let begun = Arc::new(Notify::new());
        let first_request = Arc::clone(&begun);
        let handover = Handover::default();
        let to_socket = handover.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            begun.notify_one();
            answer(router.clone(), peer, &to_socket, request)
        });
        let stopping = self.tasks.stopping();
        let (header_read, write_stall) = (self.header_read, self.write_stall);
        async move {
            // Only now, as it is served by the runtime that it is made on.
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            let io = TokioIo::new(StallGuard::new(stream, write_stall));
            // Boxed, as a socket that comes of it outlives it.
            let mut connection = Box::pin(builder.serve_connection_with_upgrades(io, service));
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = silent(&first_request, header_read) => return,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.as_mut().await
                }
            };
            drop(connection);
            if let Err(error) = served {
                tracing::debug!(error, "a connection ended");
            }
            if let Some(agreed) = handover.take() {
                Box::pin(agreed.serve()).await;
            }
        }
    }
}

/// Resolves if no first request begins in time. The builder's own limit starts late: when the peer has shown which HTTP it
/// speaks, for which it would be waited for ever.
async fn silent(first_request: &Notify, limit: Duration) {
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
            // Without it a small event waits for the client's acknowledgement of the one before: 40 ms.
            stream.set_nodelay(true).ok();
            Some((stream.into_std().ok()?, Peer(address.ip()), slot))
        }
        Err(error) => {
            tracing::warn!(%error, "can't accept a connection");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            None
        }
    }
}

fn answer(
    router: Router,
    peer: Peer,
    to_socket: &Handover,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    if request.headers().contains_key(header::UPGRADE) {
        request.extensions_mut().insert(to_socket.clone());
    }
    let has_host = put_host(&mut request);
    if let Some(uri) = without_trailing_slash(request.uri()) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(peer);
    let reply = has_host.then(|| router.oneshot(request.map(Body::new)));
    async {
        match reply {
            Some(reply) => reply.await,
            None => Ok(ErrorReply::from(RequestError::BadHost.row()).into_response()),
        }
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

/// The same address without slashes at its end; `None` if it has none.
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
    use super::*;

    #[test]
    fn slashes_at_the_end_of_a_path_do_not_count() {
        let trim =
            |uri: &'static str| without_trailing_slash(&Uri::from_static(uri)).map(|uri| uri.to_string());
        assert_eq!(trim("/v1/responses/?a=b/").as_deref(), Some("/v1/responses?a=b/"));
        assert_eq!(trim("http://h/v1/models//").as_deref(), Some("http://h/v1/models"));
        assert_eq!(trim("//").as_deref(), Some("/"));
        assert_eq!((trim("/"), trim("/v1/responses")), (None, None));
    }
}
