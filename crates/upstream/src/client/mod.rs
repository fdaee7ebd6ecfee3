//! HTTP connections to upstreams, in a pool per worker. The task that waits for a reply drives its connection.
//!
//! All of them have HTTP/1.1, so each turn has one for itself. On an HTTP/2 connection, a client that does not read its stream
//! would hold up the others', and so would an upstream's bound on streams, or a connection that falls silent.

mod body;
mod connect;
mod dial;
mod http1;
mod origin;
mod parts;
mod pool;
#[cfg(test)]
mod tests;
mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response, Uri};

use self::body::Link;
pub use self::body::ReplyBody;
use self::connect::Connector;
pub(crate) use self::connect::Stream;
use self::http1::{Http1, NoReply};
use self::origin::Origin;
pub(crate) use self::parts::PartsBody;
use self::pool::{Bounds, Pool};
use crate::route::Route;

/// For each worker.
const IDLE_CONNECTIONS: Bounds = Bounds { per_origin: 256, total: 1024 };

/// Sends requests to upstreams over pooled connections.
#[derive(Clone)]
pub(crate) struct Clients {
    connector: Connector,
    pools: Arc<[Arc<Pool>]>,
    /// The index of the calling worker's pool: connections are not shared between workers.
    pool_index: fn() -> usize,
}

/// A request on its way, until its reply begins.
type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, SendError>> + Send + 'a>>;

/// Why there is no reply. The texts come from the transport and contain no credentials.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("connecting took too long")]
    ConnectTimeout,
    /// This machine has no files, memory or ports left.
    #[error("cannot open another connection: {0}")]
    NoResources(String),
    /// The upstream may have carried out the request.
    #[error("the connection was lost: {0}")]
    Broken(String),
}

/// How long it took to open the connection of a request, TLS included. Nothing is noted for one that was reused.
#[derive(Debug, Default)]
pub struct ConnectTime {
    nanos: AtomicU64,
}

/// Opens connections for WebSockets.
#[derive(Clone)]
pub(crate) struct SocketConnector(Connector);

// === impl ConnectTime ===

impl ConnectTime {
    pub fn note(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// Takes what was noted since the last time.
    pub fn take(&mut self) -> Option<Duration> {
        let nanos = std::mem::take(self.nanos.get_mut());
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

// === impl SocketConnector ===

impl SocketConnector {
    pub async fn connect(&self, uri: &Uri, route: &Route) -> Result<Stream, SendError> {
        self.0.connect_socket(uri, route).await
    }
}

impl std::fmt::Debug for SocketConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SocketConnector").finish_non_exhaustive()
    }
}

// === impl Clients ===

impl Clients {
    /// `pools` is how many pools there are, and `pool_index` returns the index of the calling worker's.
    pub fn new(connect_timeout: Duration, pools: usize, pool_index: fn() -> usize) -> Self {
        Self {
            connector: Connector::new(connect_timeout),
            pools: (0..pools).map(|_| Arc::new(Pool::new(IDLE_CONNECTIONS))).collect(),
            pool_index,
        }
    }

    /// Opens connections that proxies pass on unread, as WebSockets need them.
    pub fn socket_connector(&self) -> SocketConnector {
        SocketConnector(self.connector.clone())
    }

    /// Sends a request at most once. If a pooled connection turns out to be closed before any of the request was written,
    /// another connection is used.
    ///
    /// # Errors
    ///
    /// [`SendError`] if there is no connection, or it is lost before the reply.
    pub fn send<'a>(&'a self, request: Request<PartsBody>, route: &Route) -> Sending<'a> {
        self.send_timed(request, route, None)
    }

    /// As [`send`](Self::send), and notes how long it took to open a connection.
    pub fn send_timed<'a>(
        &'a self,
        request: Request<PartsBody>,
        route: &Route,
        connect_time: Option<&'a ConnectTime>,
    ) -> Sending<'a> {
        let origin = Origin::new(request.uri(), route);
        // Boxed because it is large: otherwise every turn's future would have room for it.
        Box::pin(self.send_once(request, origin, connect_time))
    }

    async fn send_once(
        &self,
        request: Request<PartsBody>,
        origin: Option<Origin>,
        connect_time: Option<&ConnectTime>,
    ) -> Result<Response<ReplyBody>, SendError> {
        let Some(origin) = origin else {
            return Err(SendError::Connect("the address has no host".to_owned()));
        };
        let pool = &self.pools[(self.pool_index)()];
        while let Some(connection) = pool.take(&origin) {
            match send_on(connection, request.clone(), (&origin, pool)).await {
                Err(NoReply { is_unsent: true, error }) => {
                    tracing::debug!(%error, "a pooled connection was closed");
                }
                outcome => return outcome.map_err(SendError::from),
            }
        }
        // Boxed because it is rare and even larger.
        let began = Instant::now();
        let stream = Box::pin(self.connector.connect(&origin)).await?;
        if let Some(connect_time) = connect_time {
            connect_time.note(began.elapsed());
        }
        Ok(send_on(Box::new(Http1::new(stream)), request, (&origin, pool)).await?)
    }
}

async fn send_on(
    mut connection: Box<Http1>,
    mut request: Request<PartsBody>,
    (origin, pool): (&Origin, &Arc<Pool>),
) -> Result<Response<ReplyBody>, NoReply> {
    origin.prepare(&mut request);
    let reply = connection.send(request).await?;
    let link = Link { connection, pool: Arc::clone(pool), origin: origin.clone() };
    Ok(reply.map(|()| ReplyBody::of(link)))
}

impl From<NoReply> for SendError {
    fn from(no_reply: NoReply) -> Self {
        Self::Broken(error_chain_text(&no_reply.error))
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("pools", &self.pools).finish_non_exhaustive()
    }
}

fn error_chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn error_chain_text(error: &(dyn std::error::Error + 'static)) -> String {
    error_chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
