//! How requests get to upstreams and replies back: over HTTP or WebSocket, each with its account's credential.

pub mod headers;
mod redact;
pub mod reply;
pub mod socket;

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::request::Operation;
use antiphon_runtime::{Env, workers};
use antiphon_store::{Store, Timestamp};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Limited};

pub use self::redact::Secrets;
pub use self::reply::{EventReader, ReadError, ReplyBody};
use self::socket::{Handshake, Idle, NotOpened, Socket, SocketLost};
use crate::account::{Account, Credential, NotAList};
use crate::client::{Clients, PartsBody, SendError};
use crate::credential::seal::Sealer;
use crate::credential::{Credentials, NoToken};
use crate::metrics::UpstreamMetrics;
use crate::settings::UpstreamSettings;

/// A list of models is never larger.
const MAX_CATALOG_BYTES: usize = 4 * 1024 * 1024;
const CATALOG_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests to upstreams, each with its account's credential.
#[derive(Debug, Clone)]
pub struct Upstream {
    clients: Clients,
    credentials: Arc<Credentials>,
    handshake: Handshake,
    idle: Arc<Idle>,
    metrics: UpstreamMetrics,
}

/// A turn as it goes to an account's upstream over HTTP.
#[derive(Debug)]
pub struct Post<'a> {
    pub operation: Operation,
    /// The account's credential, if it has one.
    pub authorization: Option<&'a HeaderValue>,
    pub client_headers: &'a HeaderMap,
    pub accept: Accept,
    pub body: Vec<Bytes>,
}

/// What the reply should be.
#[derive(Debug, Clone, Copy)]
pub enum Accept {
    Json,
    Events,
}

/// Why an account's list of models can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    NoToken(#[from] NoToken),
    #[error("it did not answer in time")]
    Timeout,
    #[error("it answered {0}")]
    Status(u16),
    #[error(transparent)]
    NotAList(#[from] NotAList),
}

// === impl CatalogError ===

impl CatalogError {
    /// Whether the account's credential was refused, in a request that has nothing of a client's. 403 does not say so: a key
    /// may be good for turns and not for the list of models.
    pub fn is_credential_refused(&self) -> bool {
        matches!(self, Self::Status(401) | Self::NoToken(NoToken::Refused(_)))
    }
}

// === impl Upstream ===

impl Upstream {
    /// Opens no connection.
    pub fn new(settings: UpstreamSettings, store: Arc<dyn Store>, env: &Env) -> Self {
        let metrics = UpstreamMetrics::default();
        let UpstreamSettings { connect_timeout, max_message_bytes, key_file } = settings;
        let clients = Clients::new(connect_timeout, workers::count() + 1, workers::worker_index);
        let connector = clients.http1_connector();
        let handshake = Handshake::new(connector, connect_timeout, max_message_bytes, metrics.clone());
        let sealer = Sealer::new(key_file);
        let credentials =
            Credentials::new(store, sealer, clients.clone(), connect_timeout, env.clone(), metrics.clone());
        let idle = Arc::new(Idle::new(env.tasks.clone()));
        Self { clients, credentials: Arc::new(credentials), handshake, idle, metrics }
    }

    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// The socket on which the upstream remembers this response of its own as the latest.
    pub async fn socket_of(&self, account: &Account, response: &str) -> Option<Socket> {
        self.idle.take(&account.identity, response).await
    }

    pub async fn open_socket(
        &self,
        account: &Account,
        authorization: Option<&HeaderValue>,
        client_headers: &HeaderMap,
    ) -> Result<Socket, NotOpened> {
        let mut headers = headers::for_upstream(client_headers);
        account.authorize(authorization, &mut headers);
        self.handshake.open(account.uri(Operation::Create), headers).await
    }

    /// Sends a turn over a socket, and waits for the upstream to begin.
    pub async fn ask(
        &self,
        account: &Account,
        socket: Socket,
        frame: Vec<Bytes>,
    ) -> Result<Response<ReplyBody>, SocketLost> {
        socket.ask(frame, &account.identity, &self.idle).await
    }

    /// What goes into a request's `authorization`, if anything does.
    pub async fn authorization(&self, account: &Account) -> Result<Option<HeaderValue>, NoToken> {
        match &account.credential {
            Credential::None => Ok(None),
            Credential::Key(key) => Ok(Some(key.clone())),
            Credential::OAuth(oauth) => self.credentials.bearer(oauth).await.map(Some),
        }
    }

    /// The upstream has refused this credential. `true` if there may be another.
    pub fn refuse(&self, account: &Account, authorization: Option<&HeaderValue>) -> bool {
        let (Credential::OAuth(oauth), Some(authorization)) = (&account.credential, authorization) else {
            return false;
        };
        self.credentials.refuse(oauth, authorization);
        true
    }

    /// POST `/responses`, or what the operation asks for below it, with the account's credential.
    pub async fn post(&self, account: &Account, post: Post<'_>) -> Result<Response<ReplyBody>, SendError> {
        let Post { operation, authorization, client_headers, accept, body } = post;
        let mut headers = headers::for_upstream(client_headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static(match accept {
                Accept::Json => "application/json",
                Accept::Events => "text/event-stream",
            }),
        );
        account.authorize(authorization, &mut headers);
        let mut request = Request::new(PartsBody::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = account.uri(operation).clone();
        *request.headers_mut() = headers;
        Ok(self.clients.send(request).await?.map(ReplyBody::Http))
    }

    /// Asks the account's upstream for its models unless that was done a moment ago.
    pub async fn refresh_catalog(&self, account: &Account, now: Timestamp) {
        let Some(asking) = account.catalog.ask(now).await else { return };
        let listed = self.list_models(account).await;
        if let Err(error) = listed.and_then(|body| Ok(asking.learn(&body)?)) {
            tracing::warn!(account.id = %account.name, %error, "the upstream's models are not known");
        }
    }

    /// GET `/models`.
    pub async fn list_models(&self, account: &Account) -> Result<Bytes, CatalogError> {
        let answer = async {
            let mut request = Request::new(PartsBody::new(Vec::new()));
            *request.uri_mut() = account.models_uri.clone();
            account.authorize(self.authorization(account).await?.as_ref(), request.headers_mut());
            let reply = self.clients.send(request).await?;
            if !reply.status().is_success() {
                return Err(CatalogError::Status(reply.status().as_u16()));
            }
            let body = Limited::new(reply.into_body(), MAX_CATALOG_BYTES).collect().await;
            Ok(body.map_err(|_| NotAList)?.to_bytes())
        };
        tokio::time::timeout(CATALOG_TIMEOUT, answer).await.map_err(|_| CatalogError::Timeout)?
    }
}
