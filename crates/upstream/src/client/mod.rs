//! Pooled HTTP clients, one pool per worker.

mod body;

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::workers;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::builderstates::WantsSchemes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub use self::body::PartsBody;

/// Shorter than the keep-alive of any upstream in use but those with 5 s, where a second try helps.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// Sends requests to upstreams over connections that are kept.
#[derive(Debug, Clone)]
pub struct Clients {
    /// One for each worker and one for all other threads: a connection is used where it was made.
    clients: Arc<[HttpClient]>,
    /// For connections that are upgraded, which HTTP/2 can't be.
    http1: HttpsConnector<HttpConnector>,
}

type HttpClient = Client<HttpsConnector<HttpConnector>, PartsBody>;

/// Why there is no reply. Messages hold no credentials: they are the transport's own.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("can't connect: {0}")]
    Connect(String),
    #[error("can't connect in time")]
    ConnectTimeout,
    #[error("the connection broke: {0}")]
    Broken(String),
}

// === impl Clients ===

impl Clients {
    /// Certificates are checked against the system's roots, or the built-in ones where the system has none.
    pub fn new(connect_timeout: Duration) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(connect_timeout));
        http.set_keepalive(Some(Duration::from_secs(60)));
        let http1 = tls().https_or_http().enable_http1().wrap_connector(http.clone());
        let connector = tls().https_or_http().enable_all_versions().wrap_connector(http);
        let client = || {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_CONNECTION)
                .build(connector.clone())
        };
        Self { clients: (0..=workers::count()).map(|_| client()).collect(), http1 }
    }

    pub fn http1_connector(&self) -> HttpsConnector<HttpConnector> {
        self.http1.clone()
    }

    pub async fn send(&self, request: Request<PartsBody>) -> Result<Response<Incoming>, SendError> {
        self.clients[workers::worker_index()].request(request).await.map_err(|error| send_error(&error))
    }
}

fn tls() -> HttpsConnectorBuilder<WantsSchemes> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new;
    match builder().with_provider_and_native_roots(provider.clone()) {
        Ok(tls) => tls,
        Err(_) => builder().with_provider_and_webpki_roots(provider).expect("ring speaks TLS 1.2 and 1.3"),
    }
}

fn send_error(error: &hyper_util::client::legacy::Error) -> SendError {
    let text = chain_text(error);
    if !error.is_connect() {
        return SendError::Broken(text);
    }
    let timed_out = sources(error).any(|source| {
        source.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut)
    });
    if timed_out { SendError::ConnectTimeout } else { SendError::Connect(text) }
}

fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn chain_text(error: &(dyn std::error::Error + 'static)) -> String {
    sources(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
