//! HTTP connections to upstreams, pooled by worker. The task that waits for a reply drives its connection.

mod body;
mod connect;
mod driver;
mod http1;
mod http2;
mod origin;
mod parts;
mod pool;
#[cfg(test)]
mod tests;
mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;

use self::body::Link;
pub use self::body::ReplyBody;
use self::connect::Connector;
use self::http1::{Http1, Unanswered};
use self::http2::Http2;
use self::origin::Origin;
pub use self::parts::PartsBody;
use self::pool::{Bounds, Pool, Pooled};

/// Of a worker.
const IDLE_CONNECTIONS: Bounds = Bounds { per_origin: 256, in_all: 1024 };

/// Sends requests to upstreams over pooled connections.
#[derive(Clone)]
pub struct Clients {
    connector: Connector,
    pools: Arc<[Arc<Pool>]>,
    /// Which of the pools is the caller's: a connection is used by the worker that made it.
    pool_index: fn() -> usize,
}

/// Why there is no reply. Messages hold no credentials: they are the transport's own.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("can't connect: {0}")]
    Connect(String),
    #[error("can't connect in time")]
    ConnectTimeout,
    /// The upstream may have carried out the request.
    #[error("the connection broke: {0}")]
    Broken(String),
}

// === impl Clients ===

impl Clients {
    /// `pool_index` tells the caller's pool, of as many as there are `pools`.
    pub fn new(connect_timeout: Duration, pools: usize, pool_index: fn() -> usize) -> Self {
        Self {
            connector: Connector::new(connect_timeout),
            pools: (0..pools).map(|_| Arc::new(Pool::new(IDLE_CONNECTIONS))).collect(),
            pool_index,
        }
    }

    pub fn http1_connector(&self) -> HttpsConnector<HttpConnector> {
        self.connector.http1()
    }

    /// A request is sent at most once. Where a pooled connection turns out to be closed, another one is used, but only if
    /// nothing of the request was written.
    pub fn send(
        &self,
        request: Request<PartsBody>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, SendError>> + Send + '_>> {
        // Boxed, as it is large: every turn would carry its place.
        Box::pin(self.send_once(request))
    }

    async fn send_once(&self, request: Request<PartsBody>) -> Result<Response<ReplyBody>, SendError> {
        let Some(origin) = Origin::of(request.uri()) else {
            return Err(SendError::Connect("the address has no host".to_owned()));
        };
        let pool = &self.pools[(self.pool_index)()];
        while let Some(connection) = pool.take(&origin) {
            let is_shared = matches!(connection, Pooled::Http2(_));
            match connection.send(request.clone(), (&origin, pool)).await {
                Err(Unanswered { is_unsent: true, error }) => {
                    tracing::debug!(%error, "a pooled connection was closed");
                    // The pool would give it again.
                    if is_shared {
                        break;
                    }
                }
                outcome => return outcome.map_err(SendError::from),
            }
        }
        // Boxed, as it is rare and larger still.
        let connection = Box::pin(self.connect(&origin, pool)).await?;
        Ok(connection.send(request, (&origin, pool)).await?)
    }

    async fn connect(&self, origin: &Origin, pool: &Arc<Pool>) -> Result<Pooled, SendError> {
        let stream = self.connector.connect(origin).await?;
        let broken = |error: hyper::Error| SendError::Connect(chain_text(&error));
        if connect::is_http2(&stream) {
            let connection = Http2::open(stream).await.map_err(broken)?;
            return Ok(Pooled::Http2(pool.share(origin.clone(), connection)));
        }
        Ok(Pooled::Http1(Box::new(Http1::open(stream).await.map_err(broken)?)))
    }
}

impl Pooled {
    async fn send(
        self,
        mut request: Request<PartsBody>,
        (origin, pool): (&Origin, &Arc<Pool>),
    ) -> Result<Response<ReplyBody>, Unanswered> {
        match self {
            Self::Http1(mut connection) => {
                origin.address(&mut request);
                let reply = connection.send(request).await?;
                let link = Link { connection, pool: Arc::clone(pool), origin: origin.clone() };
                Ok(reply.map(|incoming| ReplyBody::new(incoming, Some(link))))
            }
            Self::Http2(mut connection) => {
                let reply = connection.send(request).await?;
                Ok(reply.map(|incoming| ReplyBody::new(incoming, None)))
            }
        }
    }
}

impl From<Unanswered> for SendError {
    fn from(unanswered: Unanswered) -> Self {
        Self::Broken(chain_text(&unanswered.error))
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("pools", &self.pools).finish_non_exhaustive()
    }
}

fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn chain_text(error: &(dyn std::error::Error + 'static)) -> String {
    sources(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
