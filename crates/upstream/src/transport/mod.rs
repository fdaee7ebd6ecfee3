//! Requests to upstreams and their replies, over HTTP or WebSocket. Each request carries its account's credential.

mod delivery;
mod discovery;
mod exchange;
pub mod headers;
mod redact;
mod reply;
pub mod socket;
mod words;

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_protocol::request::Operation;
use antiphon_runtime::{Env, workers};
use antiphon_store::{Store, Timestamp};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

pub use self::exchange::ExchangeError;
pub use self::redact::{Redaction, Secrets};
pub use self::reply::{EventReader, ReadError, ReplyBody};
use self::socket::{Handshake, IdleSockets, NotOpened, Served, Socket, SocketLost};
pub use self::words::{KEY_REFUSALS, words_of};
use crate::account::{Account, Credential, NotAList};
use crate::client::{Clients, ConnectTime, PartsBody, SendError};
use crate::credential::seal::Sealer;
use crate::credential::{Credentials, NoToken};
use crate::dialect::Dialect;
use crate::metrics::UpstreamMetrics;
use crate::settings::UpstreamSettings;

/// Larger than any list of models.
const MAX_CATALOG_BYTES: usize = 4 * 1024 * 1024;
const CATALOG_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests to upstreams, each with its account's credential.
#[derive(Debug, Clone)]
pub struct Upstream {
    clients: Clients,
    credentials: Arc<Credentials>,
    handshake: Handshake,
    idle: Arc<IdleSockets>,
    metrics: UpstreamMetrics,
}

/// A turn to send to an account's upstream over HTTP.
#[derive(Debug)]
pub struct Post<'a> {
    pub operation: Operation,
    pub dialect: Dialect,
    /// The account's credential, if it has one.
    pub authorization: Option<&'a HeaderValue>,
    pub client_headers: &'a HeaderMap,
    pub accept: Accept,
    pub body: Vec<Bytes>,
    /// Notes how long it takes to connect.
    pub connect_time: Option<&'a ConnectTime>,
}

/// What the reply should be.
#[derive(Debug, Clone, Copy)]
pub enum Accept {
    Json,
    Events,
}

/// A request about a response that an upstream runs in the background.
#[derive(Debug, Clone, Copy)]
pub enum About {
    /// Its events after this number.
    Events {
        after: Option<u64>,
    },
    /// The response object.
    Response,
    Cancel,
}

/// The reply to a request of the gateway's own.
struct Fetched {
    status: StatusCode,
    body: Bytes,
    /// What the request was sent with.
    authorization: Option<HeaderValue>,
}

/// Why an account's list of models could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    NoToken(#[from] NoToken),
    #[error("no reply in time")]
    Timeout,
    /// With the upstream's words.
    #[error("status {status}{}{message}", if message.is_empty() { "" } else { ": " })]
    Status { status: u16, message: String },
    #[error(transparent)]
    NotAList(#[from] NotAList),
}

// === impl CatalogError ===

impl CatalogError {
    /// Whether the upstream has refused the account's credential. A 403 does not count: a key may be valid for turns and not
    /// for the list of models.
    pub fn is_credential_refused(&self) -> bool {
        match self {
            Self::Status { status: 401, .. } | Self::NoToken(NoToken::Refused(_)) => true,
            Self::Status { status: 400 | 403, message } => {
                KEY_REFUSALS.iter().any(|words| message.contains(words))
            }
            _ => false,
        }
    }

    /// Whether the upstream answers, but not with a list: not every server has one.
    pub fn has_no_list(&self) -> bool {
        matches!(self, Self::Status { status: 400 | 404 | 405 | 501, .. } | Self::NotAList(_))
    }
}

// === impl Fetched ===

impl Fetched {
    fn error(&self, account: &Account) -> CatalogError {
        let message = words_of(&self.body, Secrets::new(account, self.authorization.as_ref()));
        CatalogError::Status { status: self.status.as_u16(), message }
    }
}

// === impl Upstream ===

impl Upstream {
    /// Opens no connection.
    pub fn new(settings: UpstreamSettings, store: Arc<dyn Store>, env: &Env) -> Self {
        let metrics = UpstreamMetrics::default();
        let UpstreamSettings { connect_timeout, max_message_bytes, key_file } = settings;
        let clients = Clients::new(connect_timeout, workers::count() + 1, workers::worker_index);
        let connector = clients.socket_connector();
        let handshake = Handshake::new(connector, connect_timeout, max_message_bytes, metrics.clone());
        let sealer = Sealer::new(key_file);
        let credentials =
            Credentials::new(store, sealer, clients.clone(), connect_timeout, env.clone(), metrics.clone());
        let idle = Arc::new(IdleSockets::new(env.tasks.clone()));
        Self { clients, credentials: Arc::new(credentials), handshake, idle, metrics }
    }

    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// The idle socket on which this response was the latest.
    pub async fn take_idle_socket(
        &self,
        account: &Account,
        project: &ProjectId,
        response: ResponseId,
    ) -> Option<Socket> {
        let account = account.identity.clone();
        self.idle.take(&Served { project: project.clone(), account, response }).await
    }

    /// # Errors
    ///
    /// [`NotOpened`] if the upstream can't be reached, or does not open a socket in time.
    pub async fn open_socket(
        &self,
        account: &Account,
        authorization: Option<&HeaderValue>,
        client_headers: &HeaderMap,
    ) -> Result<Socket, NotOpened> {
        let mut headers = headers::for_upstream(client_headers);
        account.add_headers(authorization, &mut headers);
        let uri = account.uri(Operation::Create, Dialect::Responses);
        self.handshake.open(uri, headers, &account.settings.route).await
    }

    /// Sends the turn of this response over a socket and waits for its first event.
    ///
    /// # Errors
    ///
    /// [`SocketLost`] if the socket ends before the first event.
    pub async fn send_on_socket(
        &self,
        account: &Account,
        project: &ProjectId,
        response: ResponseId,
        socket: Socket,
        frame: Vec<Bytes>,
    ) -> Result<Response<ReplyBody>, SocketLost> {
        let served = Served { project: project.clone(), account: account.identity.clone(), response };
        socket.send_turn(frame, served, &self.idle).await
    }

    /// The value of `authorization` for a request, if the account has a credential. May wait for a refresh.
    ///
    /// # Errors
    ///
    /// [`NoToken`] if the account's access token has expired and can't be refreshed.
    pub async fn authorization(&self, account: &Account) -> Result<Option<HeaderValue>, NoToken> {
        match &account.credential {
            Credential::None => Ok(None),
            Credential::Key(key) => Ok(Some(key.clone())),
            Credential::OAuth(oauth) => self.credentials.bearer(oauth).await.map(Some),
        }
    }

    /// The upstream has refused this credential. Returns whether a refresh may yield another one.
    pub fn invalidate_credential(&self, account: &Account, authorization: Option<&HeaderValue>) -> bool {
        let (Credential::OAuth(oauth), Some(authorization)) = (&account.credential, authorization) else {
            return false;
        };
        self.credentials.invalidate(oauth, authorization);
        true
    }

    /// POST to the operation's address, with the account's credential.
    ///
    /// # Errors
    ///
    /// [`SendError`] if there is no reply.
    pub async fn post(&self, account: &Account, post: Post<'_>) -> Result<Response<ReplyBody>, SendError> {
        let Post { operation, dialect, authorization, client_headers, accept, body, connect_time } = post;
        let mut headers = headers::for_upstream(client_headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static(match accept {
                Accept::Json => "application/json",
                Accept::Events => "text/event-stream",
            }),
        );
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        account.add_headers(authorization, &mut headers);
        let mut request = Request::new(PartsBody::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = account.uri(operation, dialect).clone();
        *request.headers_mut() = headers;
        let sending = self.clients.send_timed(request, &account.settings.route, connect_time);
        Ok(sending.await?.map(ReplyBody::Http))
    }

    /// A request about a response that the account's upstream runs. `None` if its id cannot be one.
    ///
    /// # Errors
    ///
    /// [`SendError`] if there is no reply.
    pub async fn ask_about(
        &self,
        account: &Account,
        authorization: Option<&HeaderValue>,
        response: &str,
        about: About,
    ) -> Result<Option<Response<ReplyBody>>, SendError> {
        let (method, below, parameters) = match about {
            About::Events { after } => {
                let after = after.map(|after| ("starting_after", after.to_string()));
                (Method::GET, "", [("stream", "true".to_owned())].into_iter().chain(after).collect())
            }
            About::Response => (Method::GET, "", Vec::new()),
            About::Cancel => (Method::POST, "/cancel", Vec::new()),
        };
        let Some(uri) = account.response_uri(response, below, &parameters) else { return Ok(None) };
        let mut request = Request::new(PartsBody::new(Vec::new()));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        account.add_headers(authorization, request.headers_mut());
        Ok(Some(self.clients.send(request, &account.settings.route).await?.map(ReplyBody::Http)))
    }

    /// Requests the list of models of the account's upstream, unless the list is fresh.
    pub async fn refresh_catalog(&self, account: &Account, now: Timestamp) {
        let Some(mut refresh) = account.catalog.begin_refresh(now).await else { return };
        let listed = self.list_models(account).await;
        refresh.note_reply();
        if let Err(error) = listed.and_then(|body| Ok(refresh.finish(&body, &account.name)?)) {
            let account = &account.name;
            if error.has_no_list() {
                return tracing::debug!(account.id = %account, %error, "the upstream has no list of models");
            }
            tracing::warn!(account.id = %account, %error, "could not list the upstream's models");
        }
    }

    /// GET `/models`.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] if there is no successful reply in time.
    pub async fn list_models(&self, account: &Account) -> Result<Bytes, CatalogError> {
        let mut request = Request::new(PartsBody::new(Vec::new()));
        *request.uri_mut() = account.models_uri.clone();
        let listing = tokio::time::timeout(CATALOG_TIMEOUT, self.fetch(account, request)).await;
        let listed = listing.map_err(|_| CatalogError::Timeout)??;
        if listed.status.is_success() { Ok(listed.body) } else { Err(listed.error(account)) }
    }

    /// What the upstream's clock says, as its `Date` header has it.
    pub async fn date(&self, account: &Account) -> Option<String> {
        let mut request = Request::new(PartsBody::new(Vec::new()));
        *request.uri_mut() = account.models_uri.clone();
        account.add_headers(None, request.headers_mut());
        let asking = self.clients.send(request, &account.settings.route);
        let reply = tokio::time::timeout(CATALOG_TIMEOUT, asking).await.ok()?.ok()?;
        Some(reply.headers().get(header::DATE)?.to_str().ok()?.to_owned())
    }

    /// Sends a request of the gateway's own, with the account's credential.
    async fn fetch(
        &self,
        account: &Account,
        mut request: Request<PartsBody>,
    ) -> Result<Fetched, CatalogError> {
        let authorization = self.authorization(account).await?;
        account.add_headers(authorization.as_ref(), request.headers_mut());
        let reply = self.clients.send(request, &account.settings.route).await?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), MAX_CATALOG_BYTES).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => CatalogError::NotAList(NotAList),
            false => CatalogError::Send(SendError::Broken(error.to_string())),
        })?;
        Ok(Fetched { status, body: body.to_bytes(), authorization })
    }
}
