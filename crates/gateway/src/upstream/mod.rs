//! Upstreams: pooled HTTP clients, and what may pass between a client's request and theirs.

pub mod body;
pub mod headers;

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::request::Operation;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use self::body::PartsBody;
use crate::pool::Account;
use crate::workers;

/// Shorter than the keep-alive of any upstream in use but those with 5 s, where the second try below helps.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// A list of models is never larger.
const MAX_CATALOG_BYTES: usize = 4 * 1024 * 1024;
const CATALOG_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests to upstreams over connections that are kept.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// One for each worker and one for all other threads: a connection is used where it was made.
    clients: Arc<[HttpClient]>,
}

type HttpClient = Client<HttpsConnector<HttpConnector>, PartsBody>;

/// What the reply should be.
#[derive(Debug, Clone, Copy)]
pub enum Accept {
    Json,
    Events,
}

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

/// Why an account's list of models can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("it did not answer in time")]
    Timeout,
    #[error("it answered {0}")]
    Status(u16),
    #[error("the answer is no list of models")]
    NotAList,
}

// === impl Upstream ===

impl Upstream {
    /// Certificates are checked against the system's roots, or the built-in ones where the system has none.
    pub fn new(connect_timeout: Duration) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(connect_timeout));
        http.set_keepalive(Some(Duration::from_secs(60)));
        let provider = rustls::crypto::ring::default_provider();
        let builder = hyper_rustls::HttpsConnectorBuilder::new;
        let tls = match builder().with_provider_and_native_roots(provider.clone()) {
            Ok(tls) => tls,
            Err(_) => {
                builder().with_provider_and_webpki_roots(provider).expect("ring speaks TLS 1.2 and 1.3")
            }
        };
        let connector = tls.https_or_http().enable_all_versions().wrap_connector(http);
        let client = || {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_CONNECTION)
                .build(connector.clone())
        };
        Self { clients: (0..=workers::count()).map(|_| client()).collect() }
    }

    fn client(&self) -> &HttpClient {
        &self.clients[workers::place()]
    }

    /// POST `/responses`, or what the operation asks for below it, with the account's credential.
    pub async fn post(
        &self,
        account: &Account,
        operation: Operation,
        client_headers: &HeaderMap,
        accept: Accept,
        body: Vec<Bytes>,
    ) -> Result<Response<Incoming>, SendError> {
        let mut headers = headers::for_upstream(client_headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static(match accept {
                Accept::Json => "application/json",
                Accept::Events => "text/event-stream",
            }),
        );
        account.authorize(&mut headers);
        let request = || {
            let mut request = Request::new(PartsBody::new(body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = account.uri(operation).clone();
            *request.headers_mut() = headers.clone();
            request
        };
        match self.client().request(request()).await.map_err(|error| send_error(&error)) {
            // No byte of a reply came: most likely an idle connection that the upstream closed as we wrote to it.
            Err(SendError::Broken(_)) => {
                self.client().request(request()).await.map_err(|error| send_error(&error))
            }
            sent => sent,
        }
    }

    /// GET `/models`.
    pub async fn list_models(&self, account: &Account) -> Result<Bytes, CatalogError> {
        let mut request = Request::new(PartsBody::new(Vec::new()));
        *request.uri_mut() = account.models_uri.clone();
        account.authorize(request.headers_mut());
        let answer = async {
            let reply = self.client().request(request).await.map_err(|error| send_error(&error))?;
            if !reply.status().is_success() {
                return Err(CatalogError::Status(reply.status().as_u16()));
            }
            let body = Limited::new(reply.into_body(), MAX_CATALOG_BYTES).collect().await;
            Ok(body.map_err(|_| CatalogError::NotAList)?.to_bytes())
        };
        tokio::time::timeout(CATALOG_TIMEOUT, answer).await.map_err(|_| CatalogError::Timeout)?
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
